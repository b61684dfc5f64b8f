package node

import (
	"fmt"
	"sync"
)

// figures are what was measured, printed at the end.
var figures figureList

type figureList struct {
	mu    sync.Mutex
	lines []string
}

func (f *figureList) add(what string, value any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lines = append(f.lines, fmt.Sprintf("  %-52s %v", what, value))
}

func (f *figureList) print() {
	f.mu.Lock()
	defer f.mu.Unlock()
	fmt.Println("Figures:")
	for _, line := range f.lines {
		fmt.Println(line)
	}
}
