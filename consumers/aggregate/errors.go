package aggregate

import "errors"

// errNoViews is returned when the schema is not migrated. Permanent until it is.
var errNoViews = errors.New("views are missing")

// errFactsMissing is returned when facts of new blocks are missing and could not be restored from the
// stored rows. The next cycle tries again.
var errFactsMissing = errors.New("facts are missing")
