package schemas

import "embed"

// Codes has the reference lists: codes/comuni.csv, codes/regions.csv, codes/inps.csv, codes/nomenclature.csv and
// codes/frameworks.json. codes/README.md says where they come from; pkg/codes reads them.
//
//go:embed codes/*.csv codes/*.json
var Codes embed.FS
