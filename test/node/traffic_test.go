package node

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	requestEvery = 20 * time.Millisecond
	requestTime  = 5 * time.Second
)

// traffic is a client that calls the service all the time. Every request has a connection of its own: kube-proxy
// decides for each to which pod it goes.
type traffic struct {
	end  context.CancelFunc
	done chan struct{}
	seen seen
}

// seen is what the client saw.
type seen struct {
	mu       sync.Mutex
	requests int
	answers  map[string]int // by version
	failures []string
	took     time.Duration
}

func startTraffic(address string) *traffic {
	ctx, end := context.WithCancel(context.Background())
	t := &traffic{end: end, done: make(chan struct{}), seen: seen{answers: map[string]int{}}}
	client := &http.Client{Timeout: requestTime, Transport: &http.Transport{DisableKeepAlives: true}}
	go func() {
		defer close(t.done)
		start := time.Now()
		tick := time.NewTicker(requestEvery)
		defer tick.Stop()
		var unanswered sync.WaitGroup
		for ctx.Err() == nil {
			unanswered.Go(func() { t.seen.add(ask(client, "http://"+address)) })
			<-tick.C
		}
		unanswered.Wait()
		t.seen.took = time.Since(start)
	}()
	return t
}

// stop ends the traffic when the last request is answered.
func (t *traffic) stop() *seen {
	t.end()
	<-t.done
	return &t.seen
}

func (s *seen) add(version string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests++
	if err != nil {
		s.failures = append(s.failures, fmt.Sprintf("%s %v", time.Now().Format("15:04:05.000"), err))
		return
	}
	s.answers[version]++
}

// answered returns an error until a version has answered.
func (s *seen) answered(version string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.answers[version] == 0 {
		return fmt.Errorf("%v have", slices.Sorted(maps.Keys(s.answers)))
	}
	return nil
}

// proxied returns an error until kube-proxy has rules for the address of a Service. Nobody should ask before: the kernel remembers for
// two minutes that what came from that port was not translated, and another client that is given the same port reaches nobody.
func proxied(address string) error {
	rules, err := exec.Command("iptables-save", "--table", "nat").Output()
	if err != nil {
		return fmt.Errorf("iptables-save: %w", err)
	}
	for line := range strings.Lines(string(rules)) {
		if strings.HasPrefix(line, "-A KUBE-SERVICES -d "+address+"/32 ") && strings.Contains(line, " -j KUBE-SVC-") {
			return nil
		}
	}
	return fmt.Errorf("no rule leads from %s to a pod", address)
}

// ask sends one request and returns the version that answers.
func ask(client *http.Client, url string) (version string, err error) {
	response, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return "", err
	}
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %s", url, response.Status)
	}
	return strings.TrimSpace(string(body)), nil
}
