package registry

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// TestClientSaysWhatIsWrong sets the client up wrongly in each way, and looks for what would help.
func TestClientSaysWhatIsWrong(t *testing.T) {
	good, _ := testClient(t, testServer(t, newMemoryLog()))
	at := good.base.String()
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	slow := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	defer slow.Close()
	for _, c := range []struct {
		name string
		opt  ClientOptions
		want string
	}{
		{"wrong password", ClientOptions{URL: at, User: "hub", Password: "guess", HTTP: good.http}, "HTTP 401, error 401: Unauthorized; are user and password of the registry right?"},
		{"no user", ClientOptions{URL: at, HTTP: good.http}, "are user and password"},
		{"authority not trusted", ClientOptions{URL: at, User: "hub", Password: "secret"}, "give the authority that signed the registry's certificate"},
		{"another name than the certificate's", ClientOptions{URL: strings.Replace(at, "127.0.0.1", "localhost", 1), User: "hub", Password: "secret", HTTP: good.http}, "a name that the certificate has"},
		{"HTTP by HTTPS", ClientOptions{URL: strings.Replace(plain.URL, "http:", "https:", 1)}, "does the registry speak plain HTTP there?"},
		{"prefix left out", ClientOptions{URL: strings.TrimSuffix(at, "/registry"), User: "hub", Password: "secret", HTTP: good.http}, "is the URL right?"},
		{"nobody there", ClientOptions{URL: "http://127.0.0.1:1"}, "connection refused"},
		{"no answer in time", ClientOptions{URL: slow.URL, Timeout: 20 * time.Millisecond}, "context deadline exceeded"},
	} {
		client, err := NewClient(c.opt)
		if err != nil {
			t.Fatal(err)
		}
		_, err = client.SchemaByID(t.Context(), 1)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
			continue
		}
		if IsNotFound(err) {
			t.Errorf("%s is taken for an unknown schema", c.name)
		}
		if strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "guess") {
			t.Errorf("%s: the error shows the password: %v", c.name, err)
		}
	}
}
