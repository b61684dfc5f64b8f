package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// The charts are plain SVG, in colours that are readable on light and on dark.
const (
	width, height = 640, 320
	left, right   = 70, 20
	top, bottom   = 40, 50
	ink, line     = "#6b7280", "#2563eb"
	without       = "#9ca3af"
)

// chart writes the charts of the results: times with Belay beside those without, and memory by number of objects.
func (r *results) chart(dir string) error {
	var timed []figure
	for _, f := range r.Figures {
		if f.Ratio > 0 {
			timed = append(timed, f)
		}
	}
	return errors.Join(
		os.WriteFile(filepath.Join(dir, "times.svg"), []byte(bars(timed)), 0o644),
		os.WriteFile(filepath.Join(dir, "memory.svg"), []byte(curve(r.Memory)), 0o644),
	)
}

// bars draws each figure as two bars: without Belay, and with it.
func bars(figures []figure) string {
	const row, room = 56, 70 // a figure's height, and the space for numbers on the right
	most := 0.0
	for _, f := range figures {
		most = max(most, f.Value, f.Floor)
	}
	var s strings.Builder
	open(&s, width, top+row*len(figures)+10, "Seconds without Belay (grey) and with it (blue)")
	scale := float64(width-2*right-room) / max(most, 1e-9)
	for i, f := range figures {
		y := top + row*i
		text(&s, right, y+12, "start", f.Name)
		for j, bar := range []struct {
			value  float64
			colour string
			note   string
		}{{f.Floor, without, fmt.Sprintf("%.3g s", f.Floor)}, {f.Value, line, fmt.Sprintf("%.3g s (%.2f)", f.Value, f.Ratio)}} {
			at, long := y+18+14*j, bar.value*scale
			fmt.Fprintf(&s, `<rect x="%d" y="%d" width="%.1f" height="11" fill="%s"/>`+"\n", right, at, long, bar.colour)
			text(&s, right+int(long)+5, at+10, "start", bar.note)
		}
	}
	return s.String() + "</svg>\n"
}

// curve draws heap and resident memory by number of objects.
func curve(points []point) string {
	var s strings.Builder
	open(&s, width, height, "MiB by number of GuardedDeployments: heap (blue), resident (grey)")
	objects, memory := 1.0, 1.0
	for _, p := range points {
		objects, memory = max(objects, float64(p.Objects)), max(memory, p.Heap/mib, p.RSS/mib)
	}
	x := func(p point) float64 { return left + float64(p.Objects)/objects*(width-left-right) }
	y := func(v float64) float64 { return height - bottom - v/mib/memory*(height-top-bottom) }
	for _, series := range []struct {
		colour string
		value  func(point) float64
	}{{without, func(p point) float64 { return p.RSS }}, {line, func(p point) float64 { return p.Heap }}} {
		var path []string
		for _, p := range points {
			path = append(path, fmt.Sprintf("%.1f,%.1f", x(p), y(series.value(p))))
			fmt.Fprintf(&s, `<circle cx="%.1f" cy="%.1f" r="3" fill="%s"/>`+"\n", x(p), y(series.value(p)), series.colour)
			text(&s, int(x(p)), int(y(series.value(p)))-8, "end", fmt.Sprintf("%.0f", series.value(p)/mib))
		}
		fmt.Fprintf(&s, `<polyline points="%s" fill="none" stroke="%s" stroke-width="2"/>`+"\n", strings.Join(path, " "), series.colour)
	}
	for _, p := range points {
		text(&s, int(x(p)), height-bottom+20, "end", fmt.Sprint(p.Objects))
	}
	return s.String() + "</svg>\n"
}

func open(s *strings.Builder, width, height int, title string) {
	fmt.Fprintf(s, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n", width, height)
	text(s, right, 20, "start", title)
}

func text(s *strings.Builder, x, y int, anchor, content string) {
	content = strings.NewReplacer("&", "&amp;", "<", "&lt;").Replace(content)
	fmt.Fprintf(s, `<text x="%d" y="%d" text-anchor="%s" fill="%s">%s</text>`+"\n", x, y, anchor, ink, content)
}
