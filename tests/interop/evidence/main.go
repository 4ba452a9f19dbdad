// Reads a PSA attestation token with Veraison's verifier and prints its claims as JSON.
//
// Usage: read-evidence TOKEN PUBLIC_KEY; a COSE_Sign1 in CBOR, and a SubjectPublicKeyInfo in PEM.
// The library knows the drafts' profile, whose boot seed is claim 2397. RFC 9783 moved it to claim 268 and named the
// profile anew; both are said here through the library's own extension point, everything else is the library's.
package main

import (
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"

	"github.com/fxamacker/cbor/v2"
	"github.com/veraison/eat"
	"github.com/veraison/psatoken"
	"github.com/veraison/psatoken/encoding"
)

const profileName = "tag:psacertified.org,2023:psa#tfm" // RFC 9783 §4.5.2

var decoding, _ = cbor.DecOptions{DupMapKey: cbor.DupMapKeyEnforcedAPF, IndefLength: cbor.IndefLengthForbidden}.DecMode()

type claims struct {
	psatoken.P2Claims

	BootSeed268 *[]byte `cbor:"268,keyasint,omitempty" json:"bootseed,omitempty"`
}

func (c *claims) GetBootSeed() ([]byte, error) {
	if c.BootSeed268 == nil {
		return nil, psatoken.ErrOptionalClaimMissing
	}
	if l := len(*c.BootSeed268); l < 8 || l > 32 { // RFC 9783 §4.3.2
		return nil, fmt.Errorf("boot seed: expected 8 to 32 bytes, found %d", l)
	}
	return *c.BootSeed268, nil
}

func (c *claims) Validate() error {
	if c.BootSeed != nil {
		return errors.New("boot seed: expected claim 268, found claim 2397")
	}
	return psatoken.ValidateClaims(c)
}

func (c *claims) UnmarshalCBOR(data []byte) error {
	return encoding.PopulateStructFromCBOR(decoding, data, c)
}

type profile struct{}

func (profile) GetName() string { return profileName }

func (profile) GetClaims() psatoken.IClaims {
	name := eat.Profile{}
	if err := name.Set(profileName); err != nil {
		panic(err)
	}
	return &claims{P2Claims: psatoken.P2Claims{
		Profile:          &name,
		SwComponents:     &psatoken.SwComponents[*psatoken.SwComponent]{},
		CanonicalProfile: profileName,
	}}
}

type component struct {
	Type        string `json:"type"`
	Measurement string `json:"measurement"`
	Version     string `json:"version"`
	SignerID    string `json:"signer_id"`
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run() error {
	if len(os.Args) != 3 {
		return errors.New("expected TOKEN and PUBLIC_KEY")
	}
	if err := psatoken.RegisterProfile(profile{}); err != nil {
		return err
	}
	token, err := os.ReadFile(os.Args[1])
	if err != nil {
		return err
	}
	key, err := readKey(os.Args[2])
	if err != nil {
		return err
	}
	evidence, err := psatoken.DecodeAndValidateEvidenceFromCOSE(token)
	if err != nil {
		return err
	}
	if err := evidence.Verify(key); err != nil {
		return err
	}
	return show(evidence.Claims)
}

func readKey(path string) (any, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("public key: expected PEM, found another form")
	}
	return x509.ParsePKIXPublicKey(block.Bytes)
}

func show(found psatoken.IClaims) error {
	read := map[string]any{}
	var failures []error
	octets := func(name string, value []byte, err error) {
		read[name] = hex.EncodeToString(value)
		failures = append(failures, err)
	}
	nonce, err := found.GetNonce()
	octets("nonce", nonce, err)
	instance, err := found.GetInstID()
	octets("instance_id", instance, err)
	implementation, err := found.GetImplID()
	octets("implementation_id", implementation, err)
	seed, err := found.GetBootSeed()
	octets("boot_seed", seed, err)
	for name, get := range map[string]func() (any, error){
		"profile":    func() (any, error) { return found.GetProfile() },
		"client_id":  func() (any, error) { return found.GetClientID() },
		"lifecycle":  func() (any, error) { return found.GetSecurityLifeCycle() },
		"components": func() (any, error) { return components(found) },
	} {
		value, err := get()
		read[name] = value
		failures = append(failures, err)
	}
	if err := errors.Join(failures...); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(read)
}

func components(found psatoken.IClaims) ([]component, error) {
	parts, err := found.GetSoftwareComponents()
	if err != nil {
		return nil, err
	}
	read := []component{}
	for _, part := range parts {
		kind, kindErr := part.GetMeasurementType()
		value, valueErr := part.GetMeasurementValue()
		version, versionErr := part.GetVersion()
		if errors.Is(versionErr, psatoken.ErrOptionalFieldMissing) {
			versionErr = nil
		}
		signer, signerErr := part.GetSignerID()
		if err := errors.Join(kindErr, valueErr, versionErr, signerErr); err != nil {
			return nil, err
		}
		read = append(read, component{kind, hex.EncodeToString(value), version, hex.EncodeToString(signer)})
	}
	return read, nil
}
