#!/usr/bin/env bash
# What `cpack` makes of a built tree: the archive, unpacked in a folder of its own, and the Debian packages, unpacked
# under a root of their own, run there and serve a program that is built against them.
#   packages_test.sh BUILD_DIR WORK_DIR VERSION CMAKE CONFIG C_COMPILER CXX_COMPILER PYTHON
set -euo pipefail
if [ $# -ne 8 ]; then sed -n 2,4p "$0" >&2; exit 2; fi
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
build=$1 work=$2 version=$3 cmake=$4 config=$5 c_compiler=$6 cxx_compiler=$7 python=$8
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }

rm -rf "$work"
mkdir -p "$work"
(cd "$build" && "$(dirname "$cmake")/cpack" -B "$work/made") > "$work/cpack.log" 2>&1 || { cat "$work/cpack.log"; fail "cpack failed"; }
unset RIVERHORSE_LIBRARY

# try PREFIX: the program gives the model's known text; the Python file finds the library of its own prefix.
prompt=$(sed -n 's/.*"prompt": "\([^"]*\)".*/\1/p' "$here/../samples/models/default/greedy.json")
expected=" the evening was over, and the evening was over."
try() {
  local prefix=$1 text
  for file in bin/riverhorse share/doc/riverhorse/LICENSE share/riverhorse/models/default/tokenizer.json; do
    [ -f "$prefix/$file" ] || fail "$prefix has no $file"
  done
  "$prefix/bin/riverhorse" --version | grep -F "$version" > /dev/null || fail "the program is not $version"
  # By its name alone it finds the libraries that are loaded at run time.
  if [ -e "$build/bin/libriverhorse-cuda.so" ]; then
    [ -f "$prefix/lib/riverhorse/libriverhorse-cuda.so" ] || fail "$prefix has no CUDA backend"
    text=$(cd / && env -u RIVERHORSE_CUDA_LIBRARY PATH="$prefix/bin:$PATH" riverhorse devices)
    case $text in
      *"cuda:0 "* | *"absent: no NVIDIA driver"* | *"absent: the NVIDIA driver"*) ;;
      *"/lib/riverhorse/libriverhorse-cuda.so cannot be loaded: libcublasLt"*) ;;  # the toolkit is where nobody looks
      *) fail "the CUDA backend of $prefix is not found or does not load: $text" ;;
    esac
  fi
  text=$("$prefix/bin/riverhorse" generate --model "$prefix/share/riverhorse/models/default" --prompt "$prompt" --greedy \
    --max-tokens 24 --backend cpu --cache none)
  case $text in "$expected"*) ;; *) fail "$prefix/bin/riverhorse says: $text" ;; esac
  if [ "$python" != none ]; then
    text=$(cd / && PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=$prefix/share/riverhorse/python "$python" -c '
import riverhorse, riverhorse_conversation
print(riverhorse.version())
maps = open("/proc/self/maps").read()
print([line.split()[-1] for line in maps.splitlines() if "libriverhorse" in line][0])')
    [ "$text" = "$version"$'\n'"$(realpath "$prefix")/lib/libriverhorse.so.$version" ] || fail "Python loaded: $text"
  fi
}

mkdir "$work/elsewhere"
tar -xzf "$work"/made/riverhorse-"$version"-*.tar.gz -C "$work/elsewhere" --strip-components=1
try "$work/elsewhere"
"$cmake" -DHOW=find_package -DPREFIX="$work/elsewhere" -DWORK_DIR="$work/consumer" -DVERSION="$version" -DCONFIG="$config" \
  -DC_COMPILER="$c_compiler" -DCXX_COMPILER="$cxx_compiler" -P "$here/consumer/run.cmake" > "$work/consumer.log" 2>&1 ||
  { cat "$work/consumer.log"; fail "a consumer of the unpacked archive"; }
# Nothing that is read later knows where it was built or unpacked.
if grep -rIl -e "$build" -e "$work" "$work/elsewhere" --include='*.cmake' --include='*.pc' --include='*.py'; then
  fail "these files name the folder of the build"
fi
say="the archive"

if ls "$work"/made/*.deb > /dev/null 2>&1; then
  mkdir "$work/root"
  for package in "$work"/made/*.deb; do dpkg-deb -x "$package" "$work/root"; done
  try "$work/root/usr"
  depends=$(dpkg-deb -f "$work"/made/riverhorse_"$version"_*.deb Depends)
  for name in libc6 libstdc++6 libzip libopenblas; do
    case $depends in *$name*) ;; *) fail "riverhorse depends on $depends, not on $name" ;; esac
  done
  case $(dpkg-deb -f "$work"/made/libriverhorse-dev_*.deb Depends) in
    "riverhorse (= $version)"*) ;;
    *) fail "libriverhorse-dev does not depend on riverhorse $version" ;;
  esac
  for file in include/riverhorse/riverhorse.h share/riverhorse/csharp/Riverhorse.cs share/riverhorse/csharp/Native.cs \
              share/riverhorse/csharp/Conversation.cs; do
    dpkg-deb -c "$work"/made/libriverhorse-dev_*.deb | grep -F "./usr/$file" > /dev/null || fail "libriverhorse-dev has no $file"
  done
  for package in "$work"/made/*.deb; do
    name=$(dpkg-deb -f "$package" Package)
    dpkg-deb -c "$package" | grep -F "./usr/share/doc/$name/copyright" > /dev/null || fail "$name has no copyright"
    case $name in
      riverhorse-cuda | riverhorse-mpi)
        case $(dpkg-deb -f "$package" Depends) in
          "riverhorse (= $version)"*libc6*) ;;
          *) fail "$name does not depend on riverhorse $version and libc6" ;;
        esac ;;
    esac
  done
  if [ -e "$build/bin/libriverhorse-cuda.so" ]; then
    case $(dpkg-deb -f "$work"/made/riverhorse-cuda_*.deb Depends Recommends) in
      *libcublas*) ;;
      *) fail "riverhorse-cuda names no package that has cuBLAS" ;;
    esac
  fi
  say+=" and the Debian packages"
else
  echo "NOT TESTED: Debian packages (there is no dpkg-shlibdeps)"
fi
rm -rf "$work/made/_CPack_Packages"
echo "$say run"
