# Prints, as JSON, the host's Python and platform, whether systemd runs it, and the key of what is installed under $PREFIX.
# Uses $PYTHON if given.
for python in ${PYTHON:-python3.13 python3.12 python3.11 python3}; do
  "$python" - 2>/dev/null <<'PROBE' && exit 0
import glob, json, os, platform, sys
import venv
if sys.version_info < (3, 11):
    raise SystemExit(1)
print(json.dumps({
    "python": sys.executable,
    "version": "%d.%d" % sys.version_info[:2],
    "machine": platform.machine(),
    "libc": " ".join(platform.libc_ver()),
    "installed": "".join(glob.glob(os.environ["PREFIX"] + "/.installed-*")[:1]).rpartition("-")[2],
    "systemd": os.path.isdir("/run/systemd/system"),
}))
PROBE
done
echo "No Python 3.11 or newer with the module venv (tried: ${PYTHON:-python3.13 python3.12 python3.11 python3})." >&2
exit 1
