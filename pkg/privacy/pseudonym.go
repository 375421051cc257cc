package privacy

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// Purpose is the family of events that a pseudonym serves. Each has keys of its own, so that the
// pseudonyms of a person cannot be linked across purposes without an authorised job.
type Purpose string

// Purposes of pseudonyms.
const (
	Demand  Purpose = "DEMAND"
	Poverty Purpose = "POVERTY"
	School  Purpose = "SCHOOL"
)

// MinKeyBytes is the shortest secret that NewKey takes: the codici fiscali are few enough to be tried
// one by one, so all the strength of a pseudonym is that of its key.
const MinKeyBytes = 32

// ErrKey says that a key cannot be used: unknown purpose, epoch below 1, or a secret that is too short.
var ErrKey = errors.New("pseudonym key cannot be used")

// Key is the secret of one purpose in one epoch. To forget a purpose's past for good, destroy the keys of
// its old epochs. A Key prints without its secret. It is safe for concurrent use.
type Key struct {
	Purpose Purpose
	Epoch   int
	secret  []byte
}

// NewKey checks and copies a secret. It fails with ErrKey.
func NewKey(purpose Purpose, epoch int, secret []byte) (*Key, error) {
	switch {
	case purpose != Demand && purpose != Poverty && purpose != School:
		return nil, fmt.Errorf("%w: purpose is none of DEMAND, POVERTY, SCHOOL", ErrKey)
	case epoch < 1:
		return nil, fmt.Errorf("%w: %s: epoch %d is below 1", ErrKey, purpose, epoch)
	case len(secret) < MinKeyBytes:
		return nil, fmt.Errorf("%w: %s epoch %d: the secret has %d bytes, at least %d are needed", ErrKey, purpose, epoch, len(secret), MinKeyBytes)
	}
	return &Key{Purpose: purpose, Epoch: epoch, secret: append([]byte{}, secret...)}, nil
}

// String names the key without its secret.
func (k *Key) String() string { return fmt.Sprintf("%s epoch %d", k.Purpose, k.Epoch) }

// GoString is String: the verb %#v must not print the secret either.
func (k *Key) GoString() string { return k.String() }

// Pseudonym is HMAC-SHA-256 under the key of the 16 characters of the canonical form. An event carries it
// as 64 lower-case hexadecimal digits (Hex), and the key's epoch as keyEpoch.
func Pseudonym(key *Key, cf CF) [32]byte {
	mac := hmac.New(sha256.New, key.secret)
	mac.Write(cf[:])
	return [32]byte(mac.Sum(nil))
}

// Hex is the text of a pseudonym.
func Hex(pseudonym [32]byte) string { return hex.EncodeToString(pseudonym[:]) }

// IsPseudonym tells whether text has the form of a pseudonym: 64 lower-case hexadecimal digits.
func IsPseudonym(text []byte) bool {
	if len(text) != 64 {
		return false
	}
	var other uint8 // without a branch, for digits and letters come as they like
	for _, c := range text {
		other |= notLowerHex[c]
	}
	return other == 0
}

// notLowerHex is 0 for the lower-case hexadecimal digits, and 1 for all other bytes.
var notLowerHex = func() (out [256]uint8) {
	for c := range out {
		if strings.IndexByte("0123456789abcdef", byte(c)) < 0 {
			out[c] = 1
		}
	}
	return out
}()

// String hides the code: a CF that reaches a log by mistake must not be read there.
func (cf CF) String() string { return strings.Repeat("*", length) }

// GoString is String.
func (cf CF) GoString() string { return cf.String() }

// Reveal is the code as text, for the edge's own use.
func (cf CF) Reveal() string { return string(cf[:]) }
