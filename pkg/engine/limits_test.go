package engine

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// asPlanner asks by HTTP and returns the answer, or the error.
func asPlanner(t *testing.T, e *Engine, query string, params url.Values) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	v := url.Values{"user": {UserPlanner}}
	for name, values := range params {
		v[name] = values
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+e.HTTPAddr()+"/?"+v.Encode(), strings.NewReader(query))
	if err != nil {
		t.Fatal(err)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		return err.Error()
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(raw))
}

// endless reads little, returns nothing, takes no memory, and goes on for days.
const endless = "SELECT sum(cityHash64(a.number, b.number)) FROM numbers(10000000) AS a CROSS JOIN numbers(1000000) AS b"

// TestPlannerLiftsNoLimit tries all ways known to lift limits of planner.
func TestPlannerLiftsNoLimit(t *testing.T) {
	e := start(t, Options{})
	ended := func(t *testing.T, name, answer string, codes ...int) {
		t.Helper()
		if !slices.ContainsFunc(codes, func(code int) bool { return strings.Contains(answer, fmt.Sprintf("Code: %d.", code)) }) {
			t.Errorf("%s: want one of the codes %v: %.300s", name, codes, answer)
		}
	}
	const cancelled, quota, memory, tooSlow, constraint = 394, 201, 241, 159, 452

	t.Run("a profile of another user", func(t *testing.T) {
		for name, params := range map[string]url.Values{
			"of the request":          {"profile": {"hub"}, "max_execution_time": {"0"}},
			"and back to the default": {"profile": {"default"}, "max_memory_usage": {"0"}},
		} {
			ended(t, name, asPlanner(t, e, "SELECT 1", params), constraint)
		}
		session := url.Values{"session_id": {"profile"}}
		if out := asPlanner(t, e, "SET profile = 'hub'", session); out != "" {
			t.Logf("a session may not change the profile: %s", out)
		}
		for _, limit := range plannerLimits[:7] {
			ended(t, "a session with another profile, "+limit, asPlanner(t, e, "SET "+limit+" = 0", session), constraint)
		}
	})
	t.Run("a subquery or a CTE", func(t *testing.T) {
		for _, query := range []string{
			"SELECT * FROM (" + endless + " SETTINGS max_execution_time = DEFAULT) SETTINGS max_execution_time = 1",
			"WITH x AS (" + endless + " SETTINGS max_execution_time = DEFAULT) SELECT * FROM x SETTINGS max_execution_time = 1",
		} {
			ended(t, query, asPlanner(t, e, query, nil), tooSlow, cancelled)
		}
	})
	t.Run("DEFAULT, in a query", func(t *testing.T) {
		for _, limit := range plannerLimits {
			t.Run(limit, func(t *testing.T) {
				t.Parallel()
				ended(t, limit, asPlanner(t, e, endless+" SETTINGS "+limit+" = DEFAULT", nil), cancelled)
			})
		}
	})
	t.Run("DEFAULT, in a session", func(t *testing.T) {
		session := url.Values{"session_id": {"default"}}
		for _, set := range []string{"SET readonly = DEFAULT", "SET max_execution_time = DEFAULT"} {
			if out := asPlanner(t, e, set, session); out != "" {
				t.Logf("%s: %s", set, out)
			}
		}
		ended(t, "the session's next query", asPlanner(t, e, endless, session), cancelled)
		ended(t, "readonly lifts no constraint", asPlanner(t, e, "SET max_memory_usage = 0", session), constraint)
	})
	t.Run("what is over before it is noticed", func(t *testing.T) {
		lifted := " SETTINGS max_execution_time = DEFAULT, max_rows_to_read = DEFAULT, max_memory_usage = DEFAULT, max_result_rows = DEFAULT, max_result_bytes = DEFAULT"
		ended(t, "memory", asPlanner(t, e, "SELECT length(groupArray(number)) FROM numbers(1000000000)"+lifted, nil), memory, cancelled)
		ended(t, "rows read", asPlanner(t, e, "SELECT sum(cityHash64(number)) FROM numbers(1000000000000)"+lifted, nil), quota, cancelled)
		ended(t, "rows returned", asPlanner(t, e, "SELECT number FROM numbers(1000000000000) FORMAT Null"+lifted, nil), quota, cancelled)
	})
	t.Run("others go on", func(t *testing.T) {
		if n := count(t, open(t, e.DSN()), "SELECT count() FROM system.one WHERE sleep(2.5) = 0"); n != 1 {
			t.Errorf("hub counts %d", n)
		}
	})
}

// TestEveryLimitOfPlannerIsWatched compares the bounds of usersXML with those that endUnlimited looks for.
func TestEveryLimitOfPlannerIsWatched(t *testing.T) {
	bounds := regexp.MustCompile(`<(max_\w+)><(?:min|const)`).FindAllStringSubmatch(usersXML, -1)
	var names []string
	for _, m := range bounds {
		names = append(names, m[1])
	}
	slices.Sort(names)
	if want := slices.Sorted(slices.Values(plannerLimits)); !slices.Equal(names, want) {
		t.Errorf("%v have bounds, %v are watched", names, want)
	}
}
