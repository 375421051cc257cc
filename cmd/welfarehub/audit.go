package main

import (
	"errors"
	"fmt"
	"os/user"
	"time"

	"github.com/spf13/pflag"

	"github.com/welfarehub/welfarehub/pkg/privacy"
)

// auditFlags say who does what the audit keeps, and why.
type auditFlags struct{ who, why string }

func (f *auditFlags) add(fs *pflag.FlagSet) {
	fs.StringVar(&f.who, "who", "", "who does it, for the audit; the user of the operating system where not given")
	fs.StringVar(&f.why, "why", "", "why, for the audit; required where something is changed")
}

// complete fills in who, and asks for why where it is needed.
func (f *auditFlags) complete(needed bool) error {
	if !needed {
		return nil
	}
	if f.why == "" {
		return errors.New("say why, for the audit: --why \"…\", or look first with --dry-run")
	}
	if err := impersonal("who", f.who, "why", f.why); err != nil {
		return err
	}
	if f.who == "" {
		u, err := user.Current()
		if err != nil || u.Username == "" {
			return errors.New("the operating system does not say who you are; set --who")
		}
		f.who = u.Username
	}
	return nil
}

// impersonal refuses flags, given by name and value, that would put a codice fiscale into the audit, where it
// stays. A hash of one is no better: there are few enough to try them all.
func impersonal(flags ...string) error {
	for i := 0; i < len(flags); i += 2 {
		if privacy.ContainsCF([]byte(flags[i+1])) {
			return fmt.Errorf("--%s holds a codice fiscale, which the audit must not keep; say it without", flags[i])
		}
	}
	return nil
}

// windowFlags are a window of time.
type windowFlags struct{ since, until string }

func (f *windowFlags) add(fs *pflag.FlagSet, of string) {
	fs.StringVar(&f.since, "since", "", "only "+of+" at or after this instant, RFC 3339 (2026-11-25T08:00:00+01:00)")
	fs.StringVar(&f.until, "until", "", "only "+of+" before this instant")
}

func (f *windowFlags) times() (since, until time.Time, err error) {
	for _, t := range []struct {
		flag, text string
		into       *time.Time
	}{{"since", f.since, &since}, {"until", f.until, &until}} {
		if t.text == "" {
			continue
		}
		at, err := time.Parse(time.RFC3339, t.text)
		if err != nil {
			return since, until, fmt.Errorf("--%s %q is no instant of RFC 3339, such as 2026-11-25T08:00:00+01:00", t.flag, t.text)
		}
		*t.into = at.UTC()
	}
	return since, until, nil
}
