package schemas

import "embed"

// Released has every version of a schema that was ever released, released/<EventName>/v<n>.avsc. They
// never change: a changed schema is released as the next version, which must be compatible with all
// before it in both directions (registry.Check).
//
//go:embed released/*/*.avsc
var Released embed.FS
