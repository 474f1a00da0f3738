# Which Debian and Ubuntu packages Riverhorse needs, and how to install those that are missing. Sourced by
# tests/run.sh, samples/quickstart.sh and .ci/run; it does nothing by itself.
#
# A list entry "a|b" means the first of them that the system knows (names differ between releases); an entry that
# ends in "?" is left out where no release has it.

riverhorse_packages_build=(
  g++ cmake ninja-build pkg-config
  nlohmann-json3-dev libcli11-dev libfmt-dev libzip-dev libpcre2-dev libopenblas-dev libhwy-dev
  libvulkan-dev libvkfft-dev glslang-dev glslang-tools spirv-tools "spirv-tools-dev?"
  libglfw3-dev libimgui-dev libpng-dev
)
# To run on any machine: lavapipe is the Vulkan device where there is no GPU; samples/plot_training is Python, and
# samples/tavern writes with a font.
riverhorse_packages_run=(libvulkan1 mesa-vulkan-drivers python3 fonts-dejavu-core)
riverhorse_packages_test=(
  libgtest-dev vulkan-validationlayers libopenmpi-dev openmpi-bin xvfb xauth xdotool "mono-mcs?" "mono-runtime?"
)
riverhorse_packages_ci=(ccache git clang-format-14 clang-tidy-14)

say() { printf '== %s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# as_root COMMAND...: directly when root, else through sudo.
as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif command -v sudo > /dev/null; then
    sudo "$@"
  else
    die "this needs root, and there is no sudo: $*"
  fi
}

apt_get() {
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 -y -q "$@"
}

# Sets `missing` to the packages of a list that are not installed, alternatives resolved. One question to dpkg and one
# to apt for all names: each takes a while.
find_missing() {
  local all=() entry name names found installed known
  for entry in "$@"; do
    IFS='|' read -ra names <<< "${entry%\?}"
    all+=("${names[@]}")
  done
  # Both tools fail when they don't know one of the names, which is an answer here, not an error.
  installed=" $( (dpkg-query -W -f '${Package} ${db:Status-Status}\n' "${all[@]}" 2> /dev/null || true) |
    awk '$2 == "installed" {printf "%s ", $1}') "
  known=" $( (apt-cache policy "${all[@]}" 2> /dev/null || true) |
    awk '/^[^ ]/ {name = $1; sub(/:$/, "", name)} /^  Candidate: / && $2 != "(none)" {printf "%s ", name}') "
  missing=()
  for entry in "$@"; do
    IFS='|' read -ra names <<< "${entry%\?}"
    found=""
    for name in "${names[@]}"; do
      if [[ $installed == *" $name "* ]]; then continue 2; fi
      if [ -z "$found" ] && [[ $known == *" $name "* ]]; then found=$name; fi
    done
    if [ -n "$found" ]; then
      missing+=("$found")
    elif [ "${entry%\?}" = "$entry" ]; then
      missing+=("${names[0]}")  # apt says what is wrong with it
    fi
  done
}

# install_packages INSTALL LIST...: INSTALL is 1, or 0 to name what is missing and go on without it.
install_packages() {
  local install=$1
  shift
  if ! command -v apt-get > /dev/null; then
    say "no apt-get here: nothing is installed. Needed, by their Debian names: $*"
    return 0
  fi
  find_missing "$@"
  if [ ${#missing[@]} = 0 ]; then
    say "packages: all ${#} are installed"
    return 0
  fi
  if [ "$install" = 0 ]; then
    say "packages: not installed, and --no-install was given: ${missing[*]}"
    return 0
  fi
  say "packages: reading the package lists (apt-get update)"
  apt_get update > /dev/null || die "apt-get update failed"
  find_missing "$@"  # the fresh lists may know other names
  say "packages: installing ${missing[*]}"
  apt_get install --no-install-recommends "${missing[@]}" > /dev/null ||
    die "installing failed; to see why: apt-get install --no-install-recommends ${missing[*]}"
}

# The address this Debian 12 takes its packages from, so that backports come from the same place.
debian_mirror() {
  local address
  address=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Codename: bookworm' 'Component: main' |
    head -1)
  [ -n "$address" ] && printf '%s' "$address"
}

# use_backports INSTALL: on Debian 12, adds the suite bookworm-backports (only ever when the user said --backports)
# and takes VkFFT 1.3.4 and Mesa 25 from it.
use_backports() {
  local codename=""
  [ -r /etc/os-release ] && codename=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME:-}")
  if [ "$codename" != bookworm ]; then
    say "--backports: only Debian 12 needs it; this is ${codename:-another system}"
    return 0
  fi
  if [ "$1" = 0 ]; then
    say "--backports: nothing is added or installed, because --no-install was given"
    return 0
  fi
  if ! grep -rqs bookworm-backports /etc/apt/sources.list /etc/apt/sources.list.d; then
    local file=/etc/apt/sources.list.d/riverhorse-backports.list mirror
    mirror=$(debian_mirror) || die "--backports: this system's own package source for bookworm was not found"
    say "--backports: adding bookworm-backports in $file"
    echo "deb $mirror bookworm-backports main" | as_root tee "$file" > /dev/null
  fi
  say "--backports: installing libvkfft-dev and mesa-vulkan-drivers from bookworm-backports"
  apt_get update > /dev/null || die "apt-get update failed"
  apt_get install --no-install-recommends -t bookworm-backports libvkfft-dev mesa-vulkan-drivers > /dev/null ||
    die "installing from bookworm-backports failed"
}

# Parallel compilations: all cores, but 2 GiB of memory each.
riverhorse_jobs() {
  local cores memory
  cores=$(nproc 2> /dev/null || echo 2)
  memory=$(awk '/^MemAvailable/ {print int($2 / 2097152)}' /proc/meminfo 2> /dev/null || echo "$cores")
  [ "${memory:-0}" -lt 1 ] && memory=1
  [ "$memory" -lt "$cores" ] && cores=$memory
  echo "$cores"
}
