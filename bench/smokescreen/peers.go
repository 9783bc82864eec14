//go:build tools

// Package peers pins the version of smokescreen that scripts/bench measures.
package peers

import _ "github.com/stripe/smokescreen"
