// Package anatomy proves what docs/anatomy.md says about client-go: the tests are exact, the benchmarks give the figures.
//
//	go test ./test/anatomy
//	go test ./test/anatomy -run '^$' -bench .
package anatomy
