#!/bin/sh
# Builds our own kernels: native/build.sh PYTHON LIBRARY, against the OpenVINO that PYTHON has.
# Where that cannot be done it says why in one line and succeeds: OpenVINO's own kernels do the work then.
set -eu
python=$1 library=$2
here=$(dirname "$0")

without() {
	rm -f "$library"
	echo "Our own kernels are not built: $1. OpenVINO's will be used, which are slower on processors with AMX, and on those with AVX2 alone." >&2
	exit 0
}

[ "$(uname -sm)" = "Linux x86_64" ] || without "they are for Linux on x86-64, this is $(uname -sm)"

compiler=
for each in ${CXX:-c++ g++}; do
	version=$("$each" -dumpversion 2>/dev/null) || continue
	[ "${version%%.*}" -ge 11 ] 2>/dev/null && compiler=$each && break
done
[ "$compiler" ] || without "no C++ compiler (${CXX:-g++} 11 or newer) was found; on Debian: apt install g++, then make kernels"

openvino=$("$python" -c 'from importlib.util import find_spec; print(find_spec("openvino").submodule_search_locations[0])')
for each in "$openvino"/libs/libopenvino.so.*; do runtime=${each##*/}; done

echo "Building our own kernels"
# The instructions are those that model/own.py looks for; the library is loaded nowhere else. What both kinds of kernels
# take from headers comes from the objects named first, which every such processor runs.
objects=$(mktemp -d)
trap 'rm -rf "$objects"' EXIT
# Its sources one a line, as xargs reads them: flags, object, source.
sources() {
	prefix=$1 flags=$2
	shift 2
	for each in "$@"; do
		name=$(basename "$(dirname "$each")")-${each##*/}
		echo "$flags -o \"$objects/$prefix-$name.o\" \"$each\""
	done
}
{
	sources 1 "-mavx2 -mfma -mf16c" "$here"/*.cpp "$here"/avx2/*.cpp
	sources 2 "-mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512bf16 -mavx512vnni -mamx-tile -mamx-bf16 -mamx-int8 \
-mf16c -mfma -mtune=sapphirerapids" "$here"/amx/*.cpp
} | xargs -P "$(nproc)" -L 1 "$compiler" -w -O3 -std=c++17 -fPIC -fvisibility=hidden -isystem "$openvino/include" -c \
	|| without "$compiler failed, as said above"
"$compiler" -shared "$objects"/*.o -o "$library.new" -L"$openvino/libs" -l:"$runtime" -l:libtbb.so.12 \
	|| without "$compiler failed, as said above"
mv "$library.new" "$library" # so that a process which has the old one open keeps it whole
