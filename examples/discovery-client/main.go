// Command discovery-client shows what the server can do: groups, versions, resources, and what may be done with each.
//
// Ask the server instead of keeping a table of kinds: CustomResourceDefinitions and aggregated API servers add to what it
// can do at any time, and upgrades take away. All of it comes with two requests, one for the core group and one for all
// others (a server before 1.27 takes one for each version of each group). A program that asks often keeps the answer with
// k8s.io/client-go/discovery/cached; see ../dynamic-client.
//
// An aggregated API server that is down does not keep the others from answering. The error then is
// ErrGroupDiscoveryFailed, and comes with everything else: who returns at any error fails for a reason that has nothing
// to do with them. This program prints what there is, says on standard error what is missing, and ends with 0; unless
// the group it was asked for is the one.
package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"

	"github.com/belay-dev/belay/examples/internal/start"
)

// timeout bounds the whole program.
const timeout = 30 * time.Second

// core is how the core group is called here. Its name is empty.
const core = "core"

func main() {
	group := flag.String("group", "", "show this group only; the core group is called "+core)
	start.Main("shows what the server can do.", func(ctx context.Context, config start.Config) error {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		client, err := discovery.NewDiscoveryClientForConfig(config.Config)
		if err != nil {
			return err
		}
		return show(ctx, client, *group)
	})
}

// show prints one group, or all if wanted is empty.
func show(ctx context.Context, client discovery.DiscoveryInterfaceWithContext, wanted string) error {
	groups, resources, err := client.ServerGroupsAndResourcesWithContext(ctx)
	missing, partial := discovery.GroupDiscoveryFailedErrorGroups(err)
	if err != nil && !partial {
		return err
	}
	versions := map[string][]metav1.APIResource{} // The lists come in no particular order.
	for _, list := range resources {
		versions[list.GroupVersion] = list.APIResources
	}
	shown := 0
	for _, group := range groups {
		if wanted == "" || wanted == nameOf(group.Name) {
			shown += len(group.Versions)
			if err := write(os.Stdout, group, versions); err != nil {
				return err
			}
		}
	}
	var silent []string
	byName := func(a, b schema.GroupVersion) int { return cmp.Compare(a.String(), b.String()) }
	for _, version := range slices.SortedFunc(maps.Keys(missing), byName) {
		if wanted == "" || wanted == nameOf(version.Group) {
			silent = append(silent, fmt.Sprintf("%s does not answer: %v", version, missing[version]))
		}
	}
	switch {
	case shown == 0 && len(silent) > 0:
		return fmt.Errorf("%s", strings.Join(silent, "; "))
	case shown == 0:
		return fmt.Errorf("the server has no group %q", wanted)
	}
	for _, line := range silent {
		fmt.Fprintln(os.Stderr, line)
	}
	return nil
}

// write prints a group in the order in which the server wants its versions to be used.
func write(w io.Writer, group *metav1.APIGroup, resources map[string][]metav1.APIResource) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, version := range group.Versions {
		preferred := ""
		if version.Version == group.PreferredVersion.Version {
			preferred = ", preferred"
		}
		fmt.Fprintf(table, "%s %s%s\n", nameOf(group.Name), version.Version, preferred)
		for _, r := range resources[version.GroupVersion] {
			scope := "cluster"
			if r.Namespaced {
				scope = "namespaced"
			}
			fmt.Fprintf(table, "  %s\t%s\t%s\t%s\t%s\n", r.Name, cmp.Or(strings.Join(r.ShortNames, ","), "-"), r.Kind, scope, strings.Join(r.Verbs, ","))
		}
	}
	return table.Flush()
}

func nameOf(group string) string {
	return cmp.Or(group, core)
}
