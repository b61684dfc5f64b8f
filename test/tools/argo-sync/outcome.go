package main

import (
	"encoding/json"
	"fmt"
	"os"
)

// outcome is what became of an apply that was waited for. It is the line of JSON that the program prints.
type outcome struct {
	Applied    string   `json:"applied"`    // in the tool's own word
	Healthy    bool     `json:"healthy"`    // all that was applied is well
	Words      string   `json:"words"`      // what the tool tells its user
	Seconds    float64  `json:"seconds"`    // until the tool was sure
	Difference []string `json:"difference"` // what the tool would change if it applied the same again
}

// exit ends the program: with 0 if all is well, with 1 if it is not, and with 2 if it could not find out.
func exit(o *outcome, err error) {
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(o)
	}
	switch {
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	case !o.Healthy:
		os.Exit(1)
	}
	os.Exit(0)
}
