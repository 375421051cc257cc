package engine

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"text/template"

	"github.com/welfarehub/welfarehub/pkg/datadir"
)

// configValues is what differs from one engine to the other.
type configValues struct {
	Data, Host, NativePort, HTTPPort string
	MemoryLimit                      int64
	Password                         string
}

// configXML keeps an engine small: caches of tens of megabytes, and background pools for two cores. The merge_tree
// settings must stay below the pool's size, or the tables do not load.
const configXML = `<clickhouse>
  <logger><level>error</level></logger>
  <listen_host>{{.Host}}</listen_host>
  <tcp_port>{{.NativePort}}</tcp_port>
  <http_port>{{.HTTPPort}}</http_port>
  <path>{{.Data}}/data/</path>
  <tmp_path>{{.Data}}/data/tmp/</tmp_path>
  <user_files_path>{{.Data}}/data/user_files/</user_files_path>
  <format_schema_path>{{.Data}}/data/format_schemas/</format_schema_path>
  <users_config>users.xml</users_config>
  <default_profile>default</default_profile>
  <timezone>UTC</timezone>
  <ignore_empty_sql_security_in_create_view_query>false</ignore_empty_sql_security_in_create_view_query>
  <send_crash_reports><enabled>false</enabled></send_crash_reports>
  <access_control_improvements>
    <select_from_system_db_requires_grant>true</select_from_system_db_requires_grant>
    <select_from_information_schema_requires_grant>true</select_from_information_schema_requires_grant>
  </access_control_improvements>

  <max_server_memory_usage>{{.MemoryLimit}}</max_server_memory_usage>
  <max_server_memory_usage_to_ram_ratio>1</max_server_memory_usage_to_ram_ratio>
  <mark_cache_size>33554432</mark_cache_size>
  <primary_index_cache_size>33554432</primary_index_cache_size>
  <index_mark_cache_size>8388608</index_mark_cache_size>
  <uncompressed_cache_size>0</uncompressed_cache_size>
  <index_uncompressed_cache_size>0</index_uncompressed_cache_size>
  <mmap_cache_size>64</mmap_cache_size>
  <compiled_expression_cache_size>16777216</compiled_expression_cache_size>
  <max_concurrent_queries>128</max_concurrent_queries>

  <background_pool_size>2</background_pool_size>
  <background_merges_mutations_concurrency_ratio>2</background_merges_mutations_concurrency_ratio>
  <background_move_pool_size>1</background_move_pool_size>
  <background_fetches_pool_size>1</background_fetches_pool_size>
  <background_common_pool_size>2</background_common_pool_size>
  <background_schedule_pool_size>8</background_schedule_pool_size>
  <merge_tree>
    <number_of_free_entries_in_pool_to_lower_max_size_of_merge>2</number_of_free_entries_in_pool_to_lower_max_size_of_merge>
    <number_of_free_entries_in_pool_to_execute_mutation>2</number_of_free_entries_in_pool_to_execute_mutation>
    <number_of_free_entries_in_pool_to_execute_optimize_entire_partition>2</number_of_free_entries_in_pool_to_execute_optimize_entire_partition>
  </merge_tree>
</clickhouse>
`

// usersXML declares the three users; the engine has no storage in which SQL could create others.
//
// default is the engine's own session, which has no password: it may open the ports and read the endless table that
// keeps it running, and nothing else. planner has readonly 2, so that clients can send the settings that they always
// send, with bounds on those that protect the engine; each has a least value of 1, because 0 lifts a limit. ClickHouse
// does not check "SETTINGS name = DEFAULT", which lifts limits too (tried): against that stand the memory limit of the
// whole server, a quota of what all queries of planner read and return in a minute, and endUnlimited. A quota counts time
// only with the blocks of a result, so it does not end what returns none. A view that hub makes runs with hub's rights (SQL SECURITY DEFINER), because planner
// has none on the tables below it.
const usersXML = `<clickhouse>
  <profiles>
    <default>
      <async_insert>0</async_insert>
    </default>
    <hub>
      <async_insert>0</async_insert>
      <optimize_on_insert>0</optimize_on_insert>
      <default_normal_view_sql_security>DEFINER</default_normal_view_sql_security>
      <default_materialized_view_sql_security>DEFINER</default_materialized_view_sql_security>
    </hub>
    <planner>
      <readonly>2</readonly>
      <max_execution_time>60</max_execution_time>
      <max_memory_usage>{{.PlannerMemory}}</max_memory_usage>
      <max_bytes_before_external_group_by>{{.PlannerSpill}}</max_bytes_before_external_group_by>
      <max_bytes_before_external_sort>{{.PlannerSpill}}</max_bytes_before_external_sort>
      <max_rows_to_read>1000000000</max_rows_to_read>
      <max_result_rows>1000000</max_result_rows>
      <max_result_bytes>268435456</max_result_bytes>
      <result_overflow_mode>throw</result_overflow_mode>
      <max_concurrent_queries_for_user>16</max_concurrent_queries_for_user>
      <max_threads>2</max_threads>
      <constraints>
        <max_execution_time><min>1</min><max>60</max></max_execution_time>
        <max_memory_usage><min>1</min><max>{{.PlannerMemory}}</max></max_memory_usage>
        <max_bytes_before_external_group_by><min>1</min></max_bytes_before_external_group_by>
        <max_bytes_before_external_sort><min>1</min></max_bytes_before_external_sort>
        <max_rows_to_read><min>1</min><max>1000000000</max></max_rows_to_read>
        <max_result_rows><min>1</min><max>1000000</max></max_result_rows>
        <max_result_bytes><min>1</min><max>268435456</max></max_result_bytes>
        <max_concurrent_queries_for_user><const/></max_concurrent_queries_for_user>
        <max_threads><min>1</min><max>8</max></max_threads>
        <allow_ddl><const/></allow_ddl>
        <allow_introspection_functions><const/></allow_introspection_functions>
      </constraints>
    </planner>
  </profiles>
  <quotas>
    <default/>
    <planner>
      <interval>
        <duration>60</duration>
        <read_rows>20000000000</read_rows>
        <result_rows>60000000</result_rows>
        <result_bytes>17179869184</result_bytes>
      </interval>
    </planner>
  </quotas>
  <users>
    <default>
      <password/>
      <networks><ip>127.0.0.1</ip><ip>::1</ip></networks>
      <profile>default</profile>
      <quota>default</quota>
      <grants>
        <query>GRANT SYSTEM LISTEN ON *.*</query>
        <query>GRANT SELECT ON system.numbers</query>
      </grants>
    </default>
    <hub>
      <password_sha256_hex>{{.PasswordHash}}</password_sha256_hex>
      <networks><ip>::/0</ip></networks>
      <profile>hub</profile>
      <quota>default</quota>
      <access_management>1</access_management>
      <named_collection_control>1</named_collection_control>
    </hub>
    <planner>
      <password/>
      <networks><ip>127.0.0.1</ip><ip>::1</ip></networks>
      <profile>planner</profile>
      <quota>planner</quota>
      <default_database>{{.Database}}</default_database>
      <grants>
        <query>GRANT SELECT ON {{.Database}}.*</query>
      </grants>
    </planner>
  </users>
</clickhouse>
`

// writeConfig renders both files anew at every start, so that a new version's settings take effect.
func (d *dataDir) writeConfig(v configValues) error {
	hash := sha256.Sum256([]byte(v.Password))
	values := map[string]any{
		"Host": escape(v.Host), "NativePort": v.NativePort, "HTTPPort": v.HTTPPort, "Data": escape(v.Data),
		"MemoryLimit": v.MemoryLimit, "PlannerMemory": v.MemoryLimit / 2, "PlannerSpill": v.MemoryLimit / 4,
		"PasswordHash": hex.EncodeToString(hash[:]), "Database": Database,
	}
	for _, f := range []struct{ path, text string }{{d.configFile(), configXML}, {d.usersFile(), usersXML}} {
		t, err := template.New(f.path).Option("missingkey=error").Parse(f.text)
		if err != nil {
			return fmt.Errorf("parse template of %s: %w", f.path, err)
		}
		var b bytes.Buffer
		if err := t.Execute(&b, values); err != nil {
			return fmt.Errorf("render %s: %w", f.path, err)
		}
		if err := datadir.WriteFile(f.path, b.Bytes()); err != nil {
			return err
		}
	}
	return nil
}

func escape(s string) string {
	var b bytes.Buffer
	_ = xml.EscapeText(&b, []byte(s)) // a bytes.Buffer never fails
	return b.String()
}
