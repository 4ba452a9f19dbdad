module tinyfleet/tests/interop/evidence

go 1.21

require (
	github.com/fxamacker/cbor/v2 v2.5.0
	github.com/veraison/eat v0.0.0-20210331113810-3da8a4dd42ff
	github.com/veraison/psatoken v1.2.1-0.20240912124429-aec3ece7886e
)

require (
	github.com/davecgh/go-spew v1.1.1 // indirect
	github.com/decred/dcrd/dcrec/secp256k1/v4 v4.1.0 // indirect
	github.com/goccy/go-json v0.9.11 // indirect
	github.com/lestrrat-go/blackmagic v1.0.1 // indirect
	github.com/lestrrat-go/httpcc v1.0.1 // indirect
	github.com/lestrrat-go/httprc v1.0.4 // indirect
	github.com/lestrrat-go/iter v1.0.2 // indirect
	github.com/lestrrat-go/jwx/v2 v2.0.8 // indirect
	github.com/lestrrat-go/option v1.0.0 // indirect
	github.com/pmezard/go-difflib v1.0.0 // indirect
	github.com/stretchr/testify v1.8.1 // indirect
	github.com/veraison/go-cose v1.3.0-rc.1 // indirect
	github.com/x448/float16 v0.8.4 // indirect
	golang.org/x/crypto v0.0.0-20220427172511-eb4f295cb31f // indirect
	gopkg.in/yaml.v3 v3.0.1 // indirect
)
