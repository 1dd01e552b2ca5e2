# shellcheck shell=bash disable=SC2154
# The Debian packages that hypeman and its tests use, and the rules for installing them. Sourced by scripts/setup.

# Processors that guests run on, as Debian names them, with the package of QEMU for each.
declare -A qemu_packages=([amd64]=qemu-system-x86 [arm64]=qemu-system-arm)
architecture=$(dpkg --print-architecture 2>/dev/null || echo unknown)

debian_packages=(
  "${qemu_packages[$architecture]:-}" # runs the machines
  qemu-utils      # qemu-img: writable layers of system disks
  erofs-utils     # mkfs.erofs: read-only image disks
  e2fsprogs       # mkfs.ext4: system disks and volumes
  skopeo          # fetches images from registries
  umoci           # unpacks layers
  busybox-static  # the guest's first user land and hypeman/base
  kmod            # modprobe --show-depends, for the initramfs
  cpio            # packs the initramfs
  zstd            # compresses the memory of snapshots,
  lz4             # or this one does
  iproute2        # ip and tc: limits of bandwidth of machines on the host's network,
  iptables        # and the rules that lead into and out of them
  ca-certificates # TLS to registries
  libatomic1      # the pinned Node is linked with it
  docker-registry # a real registry for the tests; never started as a service
  xfsprogs        # mkfs.xfs and
  btrfs-progs     # mkfs.btrfs: copies are tested on these filesystems too
  chromium        # the pages that the server shows are tested in a real browser
  shellcheck      # lint of the shell scripts
)
go_minimum=1.19
apt_lists_fresh=0

require_debian() {
  command -v apt-get >/dev/null || fail 'this set-up knows Debian 12 and 13 only, and there is no apt-get here'
  [[ -n ${qemu_packages[$architecture]:-} ]] || fail "guests are built for ${!qemu_packages[*]} so far, and this machine is $architecture"
}

packages_missing() {
  local wanted installed name missing=()
  mapfile -t wanted < <(wanted_packages)
  installed=$(dpkg-query --show --showformat '${Package} ${db:Status-Status}\n' "${wanted[@]}" 2>/dev/null || true)
  for name in "${wanted[@]}"; do
    grep -qx "$name installed" <<<"$installed" || missing+=("$name")
  done
  echo "${missing[*]}"
}

packages_state() { echo "$(wanted_packages | wc -l) Debian packages are installed"; }

packages_install() {
  local missing
  read -ra missing <<<"$(packages_missing)"
  can_be_root || fail "Debian packages need root, and there is no sudo. Run as root: apt-get install --no-install-recommends ${missing[*]}"
  refresh_apt_lists
  if [[ -n $(dpkg --audit) ]]; then
    say packages 'finishing an interrupted installation (dpkg --configure -a)'
    quietly as_root dpkg --configure -a
  fi
  say packages "installing ${missing[*]}"
  if [[ " ${missing[*]} " == *' docker-registry '* ]]; then
    install_without_service "${missing[@]}"
  else
    apt_install "${missing[@]}"
  fi
}

wanted_packages() {
  printf '%s\n' "${debian_packages[@]}"
  go_is_recent || echo golang-go
}

go_is_recent() {
  command -v go >/dev/null || return 1
  local version
  version=$(go version | sed -n 's/^go version go\([0-9.]*\).*/\1/p')
  printf '%s\n%s\n' "$go_minimum" "$version" | sort --version-sort --check=quiet
}

# Once per run, and only when something has to be fetched. A third-party source that fails must not stop us: the installation itself tells.
refresh_apt_lists() {
  ((apt_lists_fresh)) && return
  if ! can_be_root; then
    say packages 'the package lists cannot be refreshed without root; going on with what is there'
    return
  fi
  say packages 'refreshing the package lists (apt-get update)'
  quietly as_root apt-get -o DPkg::Lock::Timeout=120 -qq update || say packages 'some package lists could not be refreshed; going on with what is there'
  apt_lists_fresh=1
}

apt_install() {
  quietly as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=120 -qq install --yes --no-install-recommends "$@"
}

# Debian starts and enables docker-registry when it is installed. A policy that refuses this one service stands for the time of the
# installation (man invoke-rc.d, /usr/sbin/policy-rc.d), in front of one that may exist; what a killed run left is put back by the next.
policy=/usr/sbin/policy-rc.d
install_without_service() {
  restore_policy
  [[ ! -e $policy ]] || as_root mv "$policy" "$policy.before-hypeman"
  as_root install -m 755 "$root/scripts/lib/refuse-registry-service" "$policy"
  local status=0
  apt_install "$@" || status=$?
  restore_policy
  ((status == 0)) || fail 'apt-get could not install the packages (its last words are above)'
  quietly as_root update-rc.d docker-registry disable
}

restore_policy() {
  if grep -qs 'hypeman set-up' "$policy"; then as_root rm -f "$policy"; fi
  if [[ -e $policy.before-hypeman ]]; then as_root mv "$policy.before-hypeman" "$policy"; fi
}
