#!/bin/bash
# Enrol a device by EST with curl and openssl alone (RFC 7030; docs/device-protocol.md).
#
#   enrol.sh FOLDER URL cacerts     fetch the authorities' certificates       → cacerts.pem
#   enrol.sh FOLDER URL enrol       enrol with the birth certificate (IDevID) → ldevid.key, ldevid.pem
#   enrol.sh FOLDER URL reenrol     enrol again with the LDevID in force      → ldevid.key, ldevid.pem
#   enrol.sh FOLDER URL poll        ask for work with the LDevID              → stdout
#
# URL is the service's device address. FOLDER holds what the device is made with:
#   root.pem          the trust anchor
#   identity.key      the identity key (P-256); on a real device the root of trust signs in its place
#   idevid.pem        the birth certificate, leaf first
#   measurements      what booted, one image a line, in boot order: SLOT SHA-256 SIGNER-SHA-256 NAME@VERSION
#   implementation    implementation id, 64 hex digits
#   boot-seed         64 hex digits, new at each boot
set -euo pipefail
folder=$1 url=$2 command=$3
cd "$folder"
umask 077

EST=$url/.well-known/est
EVIDENCE=1.2.840.113549.1.9.16.2.59                        # id-aa-evidence
# The type of the one statement in it.
PSA_TOKEN=1.2.840.113556.1.8000.2554.30495.45829.40043.18407.38560.2164536.2505411.4
PROFILE='tag:psacertified.org,2023:psa#tfm'                # RFC 9783

hex() { od -An -v -tx1 | tr -d ' \n'; }
unhex() { printf "$(printf %s "$1" | sed 's/../\\x&/g')"; }
sha256() { openssl dgst -sha256 -binary | hex; }
spki() { openssl pkey -in "$1" -pubout -outform DER; }

request() { # CERTIFICATE KEY CURL-ARGUMENTS…; fails for an error, and shows what the service says
  local certificate=$1 key=$2; shift 2
  curl --silent --show-error --fail-with-body --cacert root.pem --cert "$certificate" --key "$key" "$@"
}

# CBOR (RFC 8949) in hex: integers, byte strings and texts in their shortest form.
item() { # MAJOR-TYPE NUMBER
  if   (( $2 < 24 ));    then printf '%02x' $(( $1 * 32 + $2 ))
  elif (( $2 < 256 ));   then printf '%02x%02x' $(( $1 * 32 + 24 )) "$2"
  else                        printf '%02x%04x' $(( $1 * 32 + 25 )) "$2"
  fi
}
uint() { item 0 "$1"; }
negative() { item 1 $(( -1 - $1 )); }
bytes() { item 2 $(( ${#1} / 2 )); printf %s "$1"; }
text() { item 3 "${#1}"; printf %s "$1" | hex; }

components() {
  item 4 "$(wc -l < measurements)"
  while read -r slot measurement signer version; do
    item 5 4; uint 1; text "$slot"; uint 2; bytes "$measurement"; uint 4; text "$version"; uint 5; bytes "$signer"
  done < measurements
}

claims() { # NONCE-CLAIM (RFC 9783 §4)
  item 5 8
  uint 10;   bytes "$1"                                    # nonce
  uint 256;  bytes "01$(spki identity.key | sha256)"       # instance id
  uint 265;  text "$PROFILE"
  uint 268;  bytes "$(cat boot-seed)"
  uint 2394; negative -1                                   # client id: the non-secure world
  uint 2395; uint $(( 0x3000 ))                            # life cycle: secured
  uint 2396; bytes "$(cat implementation)"
  uint 2399; components
}

signature() { # HEX → r ‖ s (RFC 9053 §2.1)
  unhex "$1" | openssl dgst -sha256 -sign identity.key | openssl asn1parse -inform DER |
    sed -n 's/.*INTEGER *:0*//p' | while read -r number; do printf '%64s' "$number"; done | tr ' A-F' '0a-f'
}

token() { # NONCE-CLAIM → COSE_Sign1 (RFC 9052 §4.2), tag 18, ES256, the device id as kid
  local payload protected=a10126 kid
  payload=$(claims "$1")
  kid=$(spki identity.key | openssl dgst -sha512 -binary | hex)
  printf 'd284'; bytes $protected; item 5 1; uint 4; bytes "$kid"; bytes "$payload"
  bytes "$(signature "$(item 4 4; text Signature1; bytes $protected; bytes ''; bytes "$payload")")"
}

csr() { # KEY TOKEN → PKCS#10 with the device's name and the evidence, base64
  openssl req -new -key "$1" -subj / -outform DER -config <(cat <<CONFIG
[req]
prompt = no
distinguished_name = name
req_extensions = extensions
[name]
[extensions]
subjectAltName = critical, URI:urn:tinyfleet:device:$(spki identity.key | openssl dgst -sha512 -binary | hex)
$EVIDENCE = ASN1:SEQUENCE:bundle
[bundle]
evidences = SEQUENCE:statements
[statements]
statement = SEQUENCE:psa
[psa]
type = OID:$PSA_TOKEN
stmt = FORMAT:HEX,OCTETSTRING:$2
CONFIG
  ) | base64
}

nonce() { # CERTIFICATE KEY → hex; base64url without padding, draft-ietf-lamps-attestation-freshness
  local encoded
  encoded=$(request "$1" "$2" "$EST/nonce" | sed 's/.*"nonce" *: *"\([^"]*\)".*/\1/' | tr '_-' '/+')
  while (( ${#encoded} % 4 )); do encoded+==; done
  printf %s "$encoded" | base64 -d | hex
}

certificates() { base64 -d | openssl pkcs7 -inform DER -print_certs; }

enrol() { # OPERATION CERTIFICATE KEY
  openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out new.key    # a fresh one each time
  local claim
  claim=$({ unhex "$(nonce "$2" "$3")"; spki new.key; } | sha256)
  csr new.key "$(token "$claim")" |
    request "$2" "$3" -H 'Content-Type: application/pkcs10' --data-binary @- "$EST/$1" > answer
  certificates < answer > new.pem
  mv new.key ldevid.key
  mv new.pem ldevid.pem
}

case $command in
  cacerts) request idevid.pem identity.key "$EST/cacerts" | certificates > cacerts.pem ;;
  enrol) enrol simpleenroll idevid.pem identity.key ;;
  reenrol) enrol simplereenroll ldevid.pem ldevid.key ;;
  poll) request ldevid.pem ldevid.key "$url/device/v1/poll" ;;
  *) echo "enrol.sh: expected cacerts, enrol, reenrol or poll, found $command" >&2; exit 2 ;;
esac
