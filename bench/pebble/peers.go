//go:build tools

// Package peers pins the version of pebble that scripts/bench measures.
package peers

import _ "github.com/canonical/pebble/cmd/pebble"
