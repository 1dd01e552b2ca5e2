# shellcheck shell=bash disable=SC2154
# Writes images as OCI archives: equal trees give equal bytes. Sourced by the scripts that make images.
# They set $work (a directory for the time being) and define config, which prints the image's configuration for the digests of the plain layers.

# write_archive OUT.tar TREE…: each directory becomes a layer.
write_archive() {
  local out=$1 tree layers=() diff_ids=() config_descriptor manifest_descriptor
  shift
  blobs=$work/image/blobs/sha256
  mkdir -p "$blobs"
  for tree in "$@"; do
    pack "$tree" >"$tree.tar"
    diff_ids+=("\"sha256:$(digest "$tree.tar")\"")
    gzip --no-name "-${compression:-9}" <"$tree.tar" >"$tree.tar.gz"
    layers+=("$(store "$tree.tar.gz" application/vnd.oci.image.layer.v1.tar+gzip)")
    rm "$tree.tar" "$tree.tar.gz"
  done

  config "${diff_ids[@]}" >"$work/config.json"
  config_descriptor=$(store "$work/config.json" application/vnd.oci.image.config.v1+json)
  printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":%s,"layers":[%s]}' \
    "$config_descriptor" "$(join "${layers[@]}")" >"$work/manifest.json"
  manifest_descriptor=$(store "$work/manifest.json" application/vnd.oci.image.manifest.v1+json)
  printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[%s]}' \
    "${manifest_descriptor%\}},\"annotations\":{\"org.opencontainers.image.ref.name\":\"latest\"}}" >"$work/image/index.json"
  printf '{"imageLayoutVersion":"1.0.0"}' >"$work/image/oci-layout"
  pack "$work/image" >"$out"
}

# A tar whose bytes depend on names, modes and contents alone.
pack() {
  tar --create --directory "$1" --format=posix --pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime \
    --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner .
}

# Stores a file as a blob and prints its descriptor.
store() {
  local digest
  digest=$(digest "$1")
  cp "$1" "$blobs/$digest"
  printf '{"mediaType":"%s","digest":"sha256:%s","size":%s}' "$2" "$digest" "$(stat --format=%s "$1")"
}

digest() { sha256sum <"$1" | cut -d ' ' -f 1; }

join() {
  local IFS=,
  printf '%s' "$*"
}
