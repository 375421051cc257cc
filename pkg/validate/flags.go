package validate

// Bits of Result.Flags. They are stored: a bit never changes its meaning.
const (
	FlagW03 uint16 = 1 << iota
	FlagW21
	FlagW24
	FlagW34
	FlagW35
	FlagW36
	FlagW61
	FlagW90
)

// FlagBits are the flags that depend on the event alone, in the order of their bits. Callers must not
// change it.
var FlagBits = []Code{W03, W21, W24, W34, W35, W36, W61, W90}

// FlagNames returns the names of the flags in a mask, in the order of their numbers, and no nil. Bits that
// this release does not know are left out.
func FlagNames(flags uint16) []string {
	out := []string{}
	for i, c := range FlagBits {
		if flags>>i&1 == 1 {
			out = append(out, string(c))
		}
	}
	return out
}

// FlagMask returns the mask of named flags; ok is false where a name is no flag of the event alone.
func FlagMask(names []string) (flags uint16, ok bool) {
	for _, name := range names {
		found := false
		for i, c := range FlagBits {
			if string(c) == name {
				flags |= 1 << i
				found = true
			}
		}
		if !found {
			return 0, false
		}
	}
	return flags, true
}
