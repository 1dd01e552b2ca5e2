# shellcheck shell=bash disable=SC2154
# What is built here from sources: guest agent, initramfs, base image, and the manifest that names them. Sourced by scripts/setup.
# Beside each result lies a stamp, "<digest of the inputs> <digest of the result>": built again when either differs.

agent_missing() { stale agent "$(agent_inputs)"; }
agent_state() { echo "guest agent $(short agent) is built from guest/"; }
agent_install() { build agent "$(agent_inputs)" guest/build.sh "$assets/agent.partial"; }
agent_inputs() { find guest -type f -not -name '*.md' -not -name '*_test.go' -print0 | sort -z | digest_of_files "$(go version 2>/dev/null)"; }

initramfs_missing() { stale initrd.cpio "$(initramfs_inputs)"; }
initramfs_state() { echo "initramfs $(short initrd.cpio) is built for kernel $(kernel_release)"; }
initramfs_install() { build initrd.cpio "$(initramfs_inputs)" scripts/build-initramfs "$assets/kernel" "$assets/agent" "$assets/initrd.cpio.partial"; }
initramfs_inputs() { printf '%s\0' scripts/build-initramfs* .assets/agent .assets/kernel/release /bin/busybox | digest_of_files; }

base_image_missing() { stale base.oci.tar "$(base_image_inputs)"; }
base_image_state() { echo "image hypeman/base $(short base.oci.tar) is made from the host's busybox"; }
base_image_install() { build base.oci.tar "$(base_image_inputs)" scripts/build-base-image "$assets/base.oci.tar.partial"; }
base_image_inputs() { printf '%s\0' scripts/build-base-image scripts/lib/oci-archive.sh /bin/busybox | digest_of_files; }

# Only for who asks for it: it takes packages of 50 MB. It stays what it is, as the kernel does, until its sources change or it is removed.
forks_image_missing() { stale forks.oci.tar "$(forks_image_inputs)"; }
forks_image_state() { echo "image for npm run test:forks $(short forks.oci.tar) is made from Debian packages"; }
forks_image_install() {
  refresh_apt_lists
  build forks.oci.tar "$(forks_image_inputs)" scripts/build-forks-image "$assets/forks.oci.tar.partial" "$assets/base.oci.tar"
}
forks_image_inputs() { printf '%s\0' scripts/build-forks-image scripts/lib/oci-archive.sh .assets/base.oci.tar | digest_of_files; }

manifest_missing() {
  if [[ -n $(kernel_missing)$(agent_missing)$(initramfs_missing)$(base_image_missing) ]]; then
    echo '.assets/assets.json, which names what is missing above'
  elif [[ ! -f $assets/assets.json || $(<"$assets/assets.json") != "$(manifest)" ]]; then
    echo '.assets/assets.json of these files'
  fi
}
manifest_state() { echo '.assets/assets.json names them all'; }
manifest_install() {
  manifest >"$assets/assets.json.partial"
  mv -T "$assets/assets.json.partial" "$assets/assets.json"
}

manifest() {
  cat <<JSON
{
  "arch": "$architecture",
  "kernel_version": "$(kernel_release)",
  "agent_version": "$(short agent)",
  "digests": {
    "vmlinuz": "sha256:$(digest_of vmlinuz)",
    "initrd.cpio": "sha256:$(digest_of initrd.cpio)",
    "base.oci.tar": "sha256:$(digest_of base.oci.tar)"
  }
}
JSON
}

# Says what is missing if asset $1 is absent, damaged, or made from other inputs than $2.
stale() {
  local stamp=$assets/$1.stamp
  if [[ ! -f $assets/$1 || ! -f $stamp ]]; then
    echo ".assets/$1"
  elif [[ $(<"$stamp") != "$2 "* ]]; then
    echo ".assets/$1 of the present sources"
  elif [[ $(<"$stamp") != "$2 $(digest_of "$1")" ]]; then
    echo "an intact .assets/$1"
  fi
}

# Runs the command, which leaves $1.partial, then puts result and stamp in place.
build() {
  local name=$1 inputs=$2
  shift 2
  quietly "$@" || fail "$1 failed (its last words are above)"
  [[ -s $assets/$name.partial ]] || fail "$1 left no $assets/$name.partial"
  rm -f "$assets/$name.stamp"
  mv -T "$assets/$name.partial" "$assets/$name"
  echo "$inputs $(digest_of "$name")" >"$assets/$name.stamp"
}

remove_partial_assets() { rm -rf "$assets"/*.partial; }

digest_of() { sha256sum <"$assets/$1" | cut -d ' ' -f 1; }
short() { digest_of "$1" | cut -c 1-12; }

# One digest over the names and contents of the files (relative to the root, NUL-separated on stdin) and the words given. An absent file counts as such.
digest_of_files() {
  {
    xargs -0 sha256sum 2>/dev/null || true
    echo "$*"
  } | sha256sum | cut -d ' ' -f 1
}
