# shellcheck shell=bash disable=SC2154
# The guest kernel: Debian's cloud kernel package, unpacked and never installed on the host. Sourced by scripts/setup.
# It stays what it is once unpacked, since memory snapshots need the very same kernel; remove .assets/kernel to get the newest.

kernel_meta_package=linux-image-cloud-$architecture

kernel_missing() { [[ -f $assets/kernel/release && -f $assets/vmlinuz ]] || echo "the guest kernel ($kernel_meta_package)"; }

kernel_state() { echo "guest kernel $(kernel_release) is unpacked"; }

kernel_release() { cat "$assets/kernel/release"; }

kernel_install() {
  [[ -f $assets/kernel/release ]] || unpack_kernel
  ln -f "$assets/kernel/vmlinuz" "$assets/vmlinuz.partial"
  mv -T "$assets/vmlinuz.partial" "$assets/vmlinuz"
}

unpack_kernel() {
  local package release staged=$assets/kernel.partial
  package=$(kernel_package)
  if [[ -z $package ]]; then
    refresh_apt_lists
    package=$(kernel_package)
  fi
  [[ -n $package ]] || fail "apt knows no $kernel_meta_package: is a Debian source configured?"
  mkdir -p "$staged/download"
  say kernel "fetching $package"
  if ! download_package "$package" "$staged/download"; then
    refresh_apt_lists
    package=$(kernel_package)
    download_package "$package" "$staged/download" || fail "apt-get could not download $package (its last words are above)"
  fi
  dpkg -x "$staged"/download/*.deb "$staged"
  rm -r "$staged/download"
  [[ -d $staged/lib/modules ]] || ln -s usr/lib "$staged/lib"
  release=$(basename "$staged"/lib/modules/*)
  ln "$staged/boot/vmlinuz-$release" "$staged/vmlinuz"
  echo "$release" >"$staged/release"
  mv -T "$staged" "$assets/kernel"
}

# The package that the meta-package stands for today; empty if apt does not know it.
kernel_package() { apt-cache depends "$kernel_meta_package" 2>/dev/null | sed -n 's/^ *Depends: *\(linux-image-[0-9].*\)/\1/p' | head -n 1; }

download_package() (
  cd "$2" || exit
  sandbox=()
  ((EUID != 0)) || sandbox=(-o APT::Sandbox::User=root)
  quietly apt-get -qq "${sandbox[@]}" download "$1"
)
