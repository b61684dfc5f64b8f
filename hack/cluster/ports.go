package main

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"net"
	"os"
	"strconv"
)

const (
	loopback = "127.0.0.1"

	// Below the ports that systems give to outgoing connections, which would
	// sometimes take one between our look and the server's start.
	firstPort  = 20000
	portCount  = 6
	portBlocks = 1000
)

// ports are where the components of a cluster listen: one block of neighbours.
type ports struct {
	Etcd, EtcdPeer, APIServer, ControllerManager, Scheduler, Kwok int
}

// choosePorts returns the first free block, looking first where dir always
// looks first: a cluster made new mostly has its old ports.
func choosePorts(dir string) (ports, error) {
	h := fnv.New32a()
	h.Write([]byte(dir))
	return firstFree(int(h.Sum32()%portBlocks), isFree)
}

func firstFree(block int, free func(port int) bool) (ports, error) {
next:
	for i := range portBlocks {
		base := firstPort + (block+i)%portBlocks*portCount
		for port := base; port < base+portCount; port++ {
			if !free(port) {
				continue next
			}
		}
		return ports{base, base + 1, base + 2, base + 3, base + 4, base + 5}, nil
	}
	return ports{}, fmt.Errorf("no %d free neighbouring ports from %d on", portCount, firstPort)
}

func isFree(port int) bool {
	// Every address, not just loopback: a server on all addresses is in the way.
	for _, host := range []string{loopback, ""} {
		l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
		if err != nil {
			return false
		}
		l.Close()
	}
	return true
}

func (p ports) write(path string) error {
	data, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o644)
}

func readPorts(path string) (ports, error) {
	var p ports
	data, err := os.ReadFile(path)
	if err != nil {
		return p, err
	}
	return p, json.Unmarshal(data, &p)
}
