package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/segmentio/kafka-go/sasl"
	"github.com/segmentio/kafka-go/sasl/plain"
	"github.com/segmentio/kafka-go/sasl/scram"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	wkafka "github.com/welfarehub/welfarehub/pkg/kafka"
	"github.com/welfarehub/welfarehub/pkg/privacy"
	"github.com/welfarehub/welfarehub/pkg/registry"
)

// kafkaFlags say how to reach a Kafka cluster.
type kafkaFlags struct {
	brokers      []string
	tls          bool
	ca           string
	mechanism    string
	user         string
	passwordFile string
}

func (f *kafkaFlags) add(fs *pflag.FlagSet) {
	fs.StringSliceVar(&f.brokers, "kafka-brokers", nil, "Kafka brokers to start from, host:port with commas between")
	fs.BoolVar(&f.tls, "kafka-tls", false, "reach Kafka by TLS 1.2 or later; implied by --kafka-ca")
	fs.StringVar(&f.ca, "kafka-ca", "", "PEM file of the authority that signed the brokers' certificates; the system's authorities where not given")
	fs.StringVar(&f.mechanism, "kafka-sasl", "", "SASL mechanism: plain, scram-sha-256 or scram-sha-512; none where not given")
	fs.StringVar(&f.user, "kafka-user", "", "SASL user, with --kafka-sasl")
	fs.StringVar(&f.passwordFile, "kafka-password-file", "", "file that holds the SASL password; a line end after it is left out")
}

func (f *kafkaFlags) cluster() (wkafka.Cluster, error) {
	c := wkafka.Cluster{Brokers: f.brokers}
	if len(c.Brokers) == 0 {
		return c, errors.New("no Kafka broker given; set --kafka-brokers host:port")
	}
	if f.tls || f.ca != "" {
		c.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
		if f.ca != "" {
			var err error
			if c.TLS.RootCAs, err = authorities("kafka-ca", f.ca); err != nil {
				return c, err
			}
		}
	}
	if f.mechanism == "" {
		return c, nil
	}
	password, err := os.ReadFile(f.passwordFile)
	if err != nil {
		return c, fmt.Errorf("read --kafka-password-file: %w", err)
	}
	secret := strings.TrimRight(string(password), "\r\n")
	var m sasl.Mechanism
	switch strings.ToLower(f.mechanism) {
	case "plain":
		m = plain.Mechanism{Username: f.user, Password: secret}
	case "scram-sha-256":
		m, err = scram.Mechanism(scram.SHA256, f.user, secret)
	case "scram-sha-512":
		m, err = scram.Mechanism(scram.SHA512, f.user, secret)
	default:
		return c, fmt.Errorf("--kafka-sasl %q is not plain, scram-sha-256 or scram-sha-512", f.mechanism)
	}
	c.SASL = m
	return c, err
}

// authorities reads the certificates of a PEM file that a flag names.
func authorities(flag, file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read --%s: %w", flag, err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("read --%s: %s holds no certificate in PEM form", flag, file)
	}
	return pool, nil
}

// clickhouseFlags say how to reach ClickHouse.
type clickhouseFlags struct{ dsn string }

func (f *clickhouseFlags) add(fs *pflag.FlagSet) {
	fs.StringVar(&f.dsn, "clickhouse-dsn", "", "ClickHouse, native protocol: clickhouse://user:password@host:9000/ (TLS: port 9440 and ?secure=true)")
}

func (f *clickhouseFlags) check() error {
	if f.dsn == "" {
		return errors.New("no ClickHouse given; set --clickhouse-dsn clickhouse://user:password@host:9000/")
	}
	return nil
}

// registryFlags say how to reach a schema registry.
type registryFlags struct{ url, user, passwordFile, ca string }

func (f *registryFlags) add(fs *pflag.FlagSet) {
	fs.StringVar(&f.url, "registry-url", "", "schema registry with the Confluent REST API, http:// or https://; a path prefix is kept")
	fs.StringVar(&f.user, "registry-user", "", "user for basic authentication at the registry; none where not given")
	fs.StringVar(&f.passwordFile, "registry-password-file", "", "file that holds that user's password")
	fs.StringVar(&f.ca, "registry-ca", "", "PEM file of the authority that signed the registry's certificate; the system's authorities where not given")
}

func (f *registryFlags) client() (*registry.Client, error) {
	if f.url == "" {
		return nil, errors.New("no schema registry given; set --registry-url http://host:8081")
	}
	opt := registry.ClientOptions{URL: f.url, User: f.user}
	if f.passwordFile != "" {
		raw, err := os.ReadFile(f.passwordFile)
		if err != nil {
			return nil, fmt.Errorf("read --registry-password-file: %w", err)
		}
		opt.Password = strings.TrimRight(string(raw), "\r\n")
	}
	if f.ca != "" {
		pool, err := authorities("registry-ca", f.ca)
		if err != nil {
			return nil, err
		}
		opt.TLS = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	return registry.NewClient(opt)
}

// logger makes the logger that --log-level and --log-format ask for, on the command's error output.
func logger(cmd *cobra.Command) (*zap.Logger, error) {
	level, _ := cmd.Flags().GetString("log-level")
	format, _ := cmd.Flags().GetString("log-format")
	var lv zapcore.Level
	if err := lv.UnmarshalText([]byte(level)); err != nil {
		return nil, &exitError{exitUsage, fmt.Errorf("--log-level %q is not debug, info, warn or error", level)}
	}
	out := cmd.ErrOrStderr()
	enc := zap.NewProductionEncoderConfig()
	enc.EncodeTime = zapcore.RFC3339TimeEncoder
	var encoder zapcore.Encoder
	switch {
	case format == "json", format == "auto" && !isTerminal(out):
		encoder = zapcore.NewJSONEncoder(enc)
	case format == "console", format == "auto":
		enc.EncodeLevel = zapcore.CapitalLevelEncoder
		enc.EncodeTime = zapcore.TimeEncoderOfLayout(time.TimeOnly)
		enc.CallerKey = zapcore.OmitKey
		encoder = zapcore.NewConsoleEncoder(enc)
	default:
		return nil, &exitError{exitUsage, fmt.Errorf("--log-format %q is not json, console or auto", format)}
	}
	return zap.New(zapcore.NewCore(encoder, zapcore.Lock(zapcore.AddSync(out)), lv)), nil
}

// redacted is the error output: log, errors, progress. Nothing that comes here holds a codice fiscale, save
// what a user gave as a name of a file or on the command line; the last fence is for that and for faults.
type redacted struct{ w io.Writer }

func (r redacted) Write(p []byte) (int, error) {
	if _, err := r.w.Write(privacy.Redact(p)); err != nil {
		return 0, err
	}
	return len(p), nil
}

func isTerminal(w io.Writer) bool {
	if r, ok := w.(redacted); ok {
		w = r.w
	}
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	st, err := f.Stat()
	return err == nil && st.Mode()&os.ModeCharDevice != 0
}
