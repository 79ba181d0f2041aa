#!/usr/bin/env bash
# Installs what the tests need on a Debian machine with Rust, as far as it is missing, and runs all tests.
# As root, or as somebody who may use sudo.
set -euo pipefail
cd "$(dirname "$0")"

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }
has() { command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ]; }

packages=()
has smtp-sink || packages+=(postfix)
# A whole Postfix is started too, in a directory of the test's own; its logins are kept in sasldb.
has saslpasswd2 || packages+=(sasl2-bin libsasl2-modules libsasl2-modules-db)
has swaks || packages+=(swaks)
perl -MNet::SSLeay -e1 2>/dev/null || packages+=(libnet-ssleay-perl)
has msmtp || packages+=(msmtp)
{ has php && [ -d /usr/share/php/Symfony/Component/Mailer ]; } || packages+=(php-cli php-symfony-mailer)
[ -n "$(ls /usr/lib/postgresql/*/bin/initdb 2>/dev/null)" ] || packages+=(postgresql)
has pgbouncer || packages+=(pgbouncer)
has curl || packages+=(curl)
has cc || packages+=(gcc libc6-dev)
has strace || packages+=(strace)
has fail2ban-regex || packages+=(fail2ban)
[ -n "$(ls /usr/lib/*/faketime/libfaketimeMT.so.1 2>/dev/null)" ] || packages+=(faketime)
has python3 || packages+=(python3)
python3 -c 'import venv, ensurepip' 2>/dev/null || packages+=(python3-venv)
has node || packages+=(nodejs)
has npm || packages+=(npm)
has chromium || packages+=(chromium)
if [ ${#packages[@]} -gt 0 ]; then
  export DEBIAN_FRONTEND=noninteractive
  as_root apt-get update -qq
  # Postfix comes without a configuration, so that nothing of it is started but what the tests start.
  echo 'postfix postfix/main_mailer_type select No configuration' | as_root debconf-set-selections || true
  as_root apt-get install -y -qq --no-install-recommends "${packages[@]}"
fi

clients=target/clients
mkdir -p "$clients"
wanted='aiosmtpd==1.4.6 django==5.2.19 schemathesis==4.32.5 dkimpy==1.1.8 pynacl==1.6.2'
wanted+=' django-anymail==15.2 moto==5.2.5 boto3==1.44.8 flask==3.1.3 flask-cors==6.0.5'
wanted+=' standardwebhooks==1.0.1'
if [ "$(cat "$clients/python/wanted" 2>/dev/null)" != "$wanted" ]; then
  python3 -m venv "$clients/python"
  # shellcheck disable=SC2086  # one word a package
  "$clients/python/bin/pip" install --quiet --disable-pip-version-check $wanted
  echo "$wanted" >"$clients/python/wanted"
fi
for package in nodemailer@7 playwright-core@1.65 axe-core@4.14 oauth2-mock-server@7.2.1 typescript@5.9; do
  [ -d "$clients/node_modules/${package%@*}" ] ||
    npm install --silent --no-audit --no-fund --prefix "$clients" "$package"
done
PATH="$PWD/$clients/python/bin:/usr/sbin:$PATH"
export PATH

# Most tests wait for programs and clocks for most of their time.
export NEXTEST_TEST_THREADS=${NEXTEST_TEST_THREADS:-$(($(nproc) * 2))}

cargo test --doc --all-features
if cargo nextest --version >/dev/null 2>&1; then
  cargo nextest run --all-features --no-fail-fast "$@"
else
  cargo test --all-features --no-fail-fast --lib --bins --tests "$@"
fi

# The behaviour again, over PostgreSQL, but for what hardly asks a spool or takes minutes; all of it, one suite or any:
# `POSTRIDER_TEST_SPOOL=postgres cargo nextest run --all-features --test it SUITE`.
if [ $# = 0 ]; then
  export POSTRIDER_TEST_SPOOL=postgres
  suites='lifecycle:: policy:: engine:: http:: submission:: composition:: feedback:: notify:: run:: command_line:: dkim:: actors::'
  if cargo nextest --version >/dev/null 2>&1; then
    # shellcheck disable=SC2086  # one word a suite
    cargo nextest run --all-features --no-fail-fast --test it $suites
  else
    # shellcheck disable=SC2086
    cargo test --all-features --no-fail-fast --test it -- $suites
  fi
fi
