#!/usr/bin/env bash
# What the row costs that every commit of the spool on PostgreSQL changes last, and what it costs if it is let
# go of before the commit is on disk, as puts and settles do: pgbench on a cluster of its own, which is removed
# afterwards. Not as root: the server refuses that. SECONDS_EACH is how long each measurement takes.
set -euo pipefail

bin=$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -1)
dir=$(mktemp -d)
stop() {
  "$bin/pg_ctl" -D "$dir/data" -m immediate stop >/dev/null 2>&1 || true
  rm -rf "$dir"
}
trap stop EXIT

"$bin/initdb" -U postgres -A trust -D "$dir/data" >/dev/null
"$bin/pg_ctl" -D "$dir/data" -l "$dir/log" -w -o "-k $dir -c listen_addresses=" start >/dev/null
sql() { psql -h "$dir" -U postgres -X -q -c "$1"; }
sql 'CREATE TABLE t (id uuid, idx int, data bytea, PRIMARY KEY (id, idx))'
sql 'CREATE TABLE head (one boolean PRIMARY KEY DEFAULT true, commits bigint DEFAULT 0,
  totals bigint[] DEFAULT ARRAY[0,0,0]::bigint[]) WITH (fillfactor = 10)'
sql 'INSERT INTO head DEFAULT VALUES'

rows="SELECT gen_random_uuid(), g, decode(repeat('ab', 1000), 'hex') FROM generate_series(1, :n) g"
echo "INSERT INTO t $rows;" >"$dir/without.sql"
echo "WITH i AS (INSERT INTO t $rows RETURNING 1), n AS MATERIALIZED (SELECT count(*) AS n FROM i)
UPDATE head SET commits = commits + 1, totals[1] = totals[1] + (SELECT n FROM n);" | tr '\n' ' ' >"$dir/with.sql"
sed "s/;/ RETURNING set_config('synchronous_commit', 'off', true);/" "$dir/with.sql" >"$dir/early.sql"
echo "
SELECT pg_logical_emit_message(true, 'bench', '');" >>"$dir/early.sql"

for n in 1 50; do
  for streams in 1 2 6; do
    for how in with early without; do
      sql 'TRUNCATE t'
      echo -n "rows=$n streams=$streams $how: "
      "$bin/pgbench" -h "$dir" -U postgres -n -f "$dir/$how.sql" -D n=$n -c "$streams" -j 2 -T "${SECONDS_EACH:-4}" postgres \
        2>/dev/null | grep -E 'tps|latency average' | tr '\n' ' '
      echo
    done
  done
done
