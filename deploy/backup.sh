#!/bin/sh
# Both databases, then the files: files are only ever added under names that say what is in them, so a later copy has all
# that an earlier dump names. `backup.sh once`, or `backup.sh every HOURS`; `backup.sh restore FOLDER` into what is empty.
set -eu
umask 077

dump() { # database, folder
  PGPASSWORD=$(cat "$SECRETS/$1-db") pg_dump -Fc -h "${PGHOST:-$1-db}" -U "$1" -f "$2/$1.dump" "$1"
}

restore() { # database, folder, what follows the database's name: another one to restore into
  PGPASSWORD=$(cat "$SECRETS/$1-db") pg_restore --exit-on-error -h "${PGHOST:-$1-db}" -U "$1" -d "$1${3:-}" "$2/$1.dump"
}

once() {
  folder=$BACKUP_TO/$(date -u +%Y-%m-%dT%H-%M-%S)
  mkdir -p "$folder.partial"
  for database in mlflow prefect; do dump "$database" "$folder.partial"; done
  for files in ${BACKUP_FILES:-/mlflow-artifacts /artifacts}; do
    tar -C "$files" -czf "$folder.partial/$(basename "$files").tgz" --exclude='*.partial' --exclude=./huggingface .
  done
  (cd "$folder.partial" && sha256sum -- * > SHA256SUMS)
  mv "$folder.partial" "$folder" # whole, or not there
  echo "$folder"
  ls -d "$BACKUP_TO"/????-??-??T??-??-?? | sort -r | tail -n "+$((${BACKUPS_KEPT:-7} + 1))" | while read -r old; do rm -rf "$old"; done
}

case "${1:-}" in
  once) once ;;
  every) while true; do once || echo "this backup failed; the next one is in $2 hours" >&2; sleep "$(($2 * 3600))"; done ;;
  restore)
    (cd "$2" && sha256sum -c --quiet SHA256SUMS)
    for database in mlflow prefect; do restore "$database" "$2" "${3:-}"; done
    for files in ${BACKUP_FILES:-/mlflow-artifacts /artifacts}; do tar -C "$files" -xzf "$2/$(basename "$files").tgz"; done ;;
  *) echo "backup.sh once | every HOURS | restore FOLDER" >&2; exit 2 ;;
esac
