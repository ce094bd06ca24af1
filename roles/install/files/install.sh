# Installs the wheels in $ARCHIVE as $PREFIX/venvs/$KEY and switches to it. All or nothing: until the last two
# links are renamed, an earlier installation stays in use. Input: ARCHIVE, KEY, LINK, PREFIX, PYTHON.
set -eu
umask 022
environment=$PREFIX/venvs/$KEY
previous=$(readlink "$PREFIX/current" || true)
wheels=$PREFIX/.wheels-$KEY

clean_up() {
  rm -rf "$wheels" "$ARCHIVE"
  [ -e "$environment/.complete" ] || rm -rf "$environment"
}
trap clean_up EXIT

if [ -e "$LINK" ] && [ ! -L "$LINK" ]; then
  echo "$LINK exists and is not a link made by this role. Remove it, or set trinity_snap_link." >&2
  exit 1
fi

if [ ! -e "$environment/.complete" ]; then
  rm -rf "$environment" "$wheels"
  mkdir -p "$wheels" "$PREFIX/venvs"
  "$PYTHON" -m tarfile -e "$ARCHIVE" "$wheels"
  "$PYTHON" -m venv --without-pip "$environment"
  set -- "$wheels"/pip-*.whl
  "$environment/bin/python" "$1/pip" --quiet --disable-pip-version-check --isolated install \
    --no-index --find-links "$wheels" --root-user-action ignore --requirement "$wheels/requirement.txt"
  "$environment/bin/trinity-snap" --version
  touch "$environment/.complete"
fi

ln -sfn "venvs/$KEY" "$PREFIX/current.new"
mv -T "$PREFIX/current.new" "$PREFIX/current"
mkdir -p "$(dirname "$LINK")"
ln -sfn "$PREFIX/current/bin/trinity-snap" "$LINK.new"
mv -T "$LINK.new" "$LINK"

# A run that began before the switch still uses the previous environment; older ones go.
for old in "$PREFIX"/venvs/*; do
  case "venvs/${old##*/}" in
    "venvs/$KEY" | "$previous") ;;
    *) rm -rf "$old" ;;
  esac
done
rm -f "$PREFIX"/.installed-*
touch "$PREFIX/.installed-$KEY"
