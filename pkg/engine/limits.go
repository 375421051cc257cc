package engine

import (
	"context"
	"strings"
	"time"
)

// plannerLimits are the settings that bound what planner may take. Each has a constraint in usersXML.
var plannerLimits = []string{
	"max_execution_time", "max_memory_usage", "max_bytes_before_external_group_by", "max_bytes_before_external_sort",
	"max_rows_to_read", "max_result_rows", "max_result_bytes", "max_concurrent_queries_for_user", "max_threads",
}

// limitsEvery is how long a query may run without a limit.
const limitsEvery = 2 * time.Second

// endUnlimited ends, until Stop, the queries of planner that have lifted a limit. ClickHouse checks no constraint for
// "SETTINGS name = DEFAULT" or "SET name = DEFAULT", which take a setting out of those that a query was given; the list
// of running queries shows which it has. A KILL QUERY finds a place also where the engine takes no more queries.
func (e *Engine) endUnlimited() {
	query := "KILL QUERY WHERE user = '" + UserPlanner + "' AND NOT hasAll(mapKeys(Settings), ['" + strings.Join(plannerLimits, "', '") + "']) ASYNC"
	tick := time.NewTicker(limitsEvery)
	defer tick.Stop()
	for {
		select {
		case <-e.stop:
			return
		case <-tick.C:
		}
		ctx, cancel := context.WithTimeout(context.Background(), limitsEvery)
		_ = e.post(ctx, query) // an engine that does not answer is the supervisor's matter
		cancel()
	}
}
