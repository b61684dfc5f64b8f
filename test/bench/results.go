package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// results are what bench/results.json holds.
type results struct {
	Date       string   `json:"date"`
	Commit     string   `json:"commit"`
	Machine    string   `json:"machine"`
	Cores      int      `json:"cores"`
	Go         string   `json:"go"`
	Kubernetes string   `json:"kubernetes"`
	Sizes      sizes    `json:"sizes"`
	Figures    []figure `json:"figures"`
	Memory     []point  `json:"memory"`
}

// figure is one line of the table. Most times are worth something only as a ratio.
type figure struct {
	Name   string  `json:"name"`
	Value  float64 `json:"value"`
	Unit   string  `json:"unit,omitempty"`
	Floor  float64 `json:"floor,omitempty"` // the same work without Belay, in the same run
	Ratio  float64 `json:"ratio,omitempty"`
	Limit  float64 `json:"limit,omitempty"` // what Ratio, or Value if there is none, is not to exceed
	Detail string  `json:"detail,omitempty"`
}

// point is Belay at rest with so many objects.
type point struct {
	Objects int     `json:"objects"`
	Heap    float64 `json:"heapBytes"` // after a garbage collection
	RSS     float64 `json:"rssBytes"`
	CPU     float64 `json:"cpuCores"`
	Start   float64 `json:"startSeconds"` // from start to synced
}

func newResults(s sizes) results {
	commit, _ := exec.Command("git", "describe", "--always", "--dirty").Output()
	return results{
		Date: time.Now().UTC().Format(time.DateOnly), Commit: strings.TrimSpace(string(commit)),
		Machine: runtime.GOOS + "/" + runtime.GOARCH + " " + processor(), Cores: runtime.NumCPU(), Go: runtime.Version(), Sizes: s,
	}
}

// processor is the name of the processor, as far as it is known.
func processor() string {
	text, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func (r *results) add(f figure) {
	r.Figures = append(r.Figures, f)
	fmt.Println(" ", f)
}

func (r *results) ratio(name string, took, floor time.Duration, limit float64) {
	r.add(figure{Name: name, Value: took.Seconds(), Unit: "s", Floor: floor.Seconds(), Ratio: took.Seconds() / floor.Seconds(), Limit: limit})
}

func (r *results) number(name string, value float64, unit, detail string) {
	r.add(figure{Name: name, Value: value, Unit: unit, Detail: detail})
}

// quantiles notes how long something took; the limit is that of the 99th percentile.
func (r *results) quantiles(name string, took []time.Duration, limit time.Duration) {
	if len(took) == 0 {
		return
	}
	slices.Sort(took)
	at := func(q float64) float64 { return took[int(math.Ceil(q*float64(len(took))))-1].Seconds() }
	r.add(figure{Name: name + ", p50", Value: at(0.5), Unit: "s"})
	r.add(figure{Name: name + ", p99", Value: at(0.99), Unit: "s", Limit: limit.Seconds()})
	r.add(figure{Name: name + ", max", Value: at(1), Unit: "s"})
}

func (r *results) point(p point) {
	r.Memory = append(r.Memory, p)
	fmt.Println(" ", p)
}

// slope returns how many bytes of heap each further object takes, by least squares.
func (r *results) slope() float64 {
	var n, sx, sy, sxx, sxy float64
	for _, p := range r.Memory {
		x := float64(p.Objects)
		n, sx, sy, sxx, sxy = n+1, sx+x, sy+p.Heap, sxx+x*x, sxy+x*p.Heap
	}
	if d := n*sxx - sx*sx; d != 0 {
		return (n*sxy - sx*sy) / d
	}
	return 0
}

func (f figure) String() string {
	text := fmt.Sprintf("%-70s %10.3g %s", f.Name, f.Value, f.Unit)
	if f.Ratio > 0 {
		text += fmt.Sprintf(", %.2f times the %.3g %s without Belay", f.Ratio, f.Floor, f.Unit)
	}
	if f.Limit > 0 {
		text += fmt.Sprintf(" (limit %g)", f.Limit)
	}
	if f.Detail != "" {
		text += " (" + f.Detail + ")"
	}
	return text
}

func (p point) String() string {
	return fmt.Sprintf("%d objects: heap %.1f MiB, resident %.1f MiB, %.4f cores at rest, synced after %.2f s", p.Objects, p.Heap/mib, p.RSS/mib, p.CPU, p.Start)
}

// print writes the table, and says what is over its limit.
func (r *results) print(out io.Writer) error {
	fmt.Fprintf(out, "\n%s, %d cores, %s, Kubernetes %s, commit %s\n\n", r.Machine, r.Cores, r.Go, r.Kubernetes, r.Commit)
	over := 0
	for _, f := range r.Figures {
		fmt.Fprintln(out, f)
		if f.over() {
			over++
			fmt.Fprintln(out, "  ^ over its limit")
		}
	}
	for _, p := range r.Memory {
		fmt.Fprintln(out, p)
	}
	if len(r.Memory) > 1 {
		fmt.Fprintf(out, "each further object: %.1f KiB of heap\n", r.slope()/1024)
	}
	if over > 0 {
		fmt.Fprintf(out, "%d figures are over their limit\n", over)
	}
	return nil
}

func (f figure) over() bool {
	if f.Limit == 0 {
		return false
	}
	if f.Ratio > 0 {
		return f.Ratio > f.Limit
	}
	return f.Value > f.Limit
}

// write writes the results and their charts.
func (r *results) write(path string) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, append(data, '\n'), 0o644), r.chart(filepath.Dir(path)))
}

func readResults(path string) (*results, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	r := &results{}
	if err := json.Unmarshal(data, r); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return r, nil
}

// compare prints how the results differ from the committed ones. Times are compared by their ratios.
func (r *results) compare(out io.Writer, committed *results) error {
	if r.Sizes.Objects != committed.Sizes.Objects || r.Sizes.Replicas != committed.Sizes.Replicas {
		fmt.Fprintf(out, "\nThe sizes differ: %+v and %+v\n", committed.Sizes, r.Sizes)
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "\nFIGURE\t%s\t%s\tCHANGE\n", committed.Commit, r.Commit)
	row := func(name string, before, now float64) {
		change := "new"
		switch {
		case before == now:
			change = "none"
		case before > 0:
			change = fmt.Sprintf("%+.0f %%", 100*(now/before-1))
		}
		fmt.Fprintf(table, "%s\t%.3g\t%.3g\t%s\n", name, before, now, change)
	}
	for _, f := range r.Figures {
		i := slices.IndexFunc(committed.Figures, func(c figure) bool { return c.Name == f.Name })
		before := figure{}
		if i >= 0 {
			before = committed.Figures[i]
		}
		if f.Ratio > 0 {
			row(f.Name+" (ratio)", before.Ratio, f.Ratio)
		} else {
			row(f.Name, before.Value, f.Value)
		}
	}
	if len(r.Memory) > 1 {
		row("memory for each further object, bytes", committed.slope(), r.slope())
	}
	return table.Flush()
}
