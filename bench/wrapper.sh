#!/bin/sh
# What people write around an init that neither renders nor makes a CA: the hosts of the
# manifest into pipelock's configuration, a CA by openssl, then the daemon. It judges
# nothing. For scripts/bench alone.
#
#     wrapper.sh MANIFEST CONFIG CERT KEY COMMAND...
set -eu
manifest=$1 config=$2 cert=$3 key=$4
shift 4
umask 077
{
    printf 'version: 1\nmode: strict\nenforce: true\n\napi_allowlist:\n'
    awk '$1 == "-" && $2 == "host:" { gsub(/"/, "", $3); printf "  - \"%s\"\n", tolower($3) }' "$manifest"
    printf '\nforward_proxy:\n  enabled: true\n\ndlp:\n  include_defaults: true\n  scan_env: true\n'
    printf '\nrequest_body_scanning:\n  action: block\n  scan_headers: true\n  header_mode: all\n'
    printf '\ntls_interception:\n  enabled: true\n  ca_cert: "%s"\n  ca_key: "%s"\n' "$cert" "$key"
} >"$config.new"
mv "$config.new" "$config"
openssl ecparam -name prime256v1 -genkey -noout -out "$key"
openssl req -x509 -new -key "$key" -subj '/O=Pipelock/CN=Pipelock CA' -days 3650 \
    -addext basicConstraints=critical,CA:TRUE,pathlen:0 \
    -addext keyUsage=critical,keyCertSign,cRLSign -out "$cert" 2>/dev/null
exec "$@"
