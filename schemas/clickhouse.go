package schemas

import "embed"

// ClickHouse has the migrations of the two databases, clickhouse/<version>_<name>.sql, in goose's
// format. 00001 and 00004 are written by pkg/clickhouse/ddl.
//
//go:embed clickhouse/*.sql
var ClickHouse embed.FS
