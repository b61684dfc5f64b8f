package inplace

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"
	"sigs.k8s.io/yaml"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// namespaceFor is how long what a Namespace says is believed, and forgottenAfter when it is dropped if nobody has asked again.
const namespaceFor, forgottenAfter = time.Minute, 24 * time.Hour

// Settings are fields of spec.guard, by their JSON names.
type Settings map[string]any

// ParseSettings reads fields of spec.guard, as JSON or YAML. An error says what is wrong.
func ParseSettings(text string) (Settings, error) {
	var guard v1alpha1.Guard
	if err := yaml.UnmarshalStrict([]byte(text), &guard); err != nil {
		if wrong, is := errors.AsType[*json.UnmarshalTypeError](err); is {
			return nil, fmt.Errorf("%s is of the wrong type: %s", cmp.Or(wrong.Field, "the whole"), wrong.Value)
		}
		return nil, fmt.Errorf("%s", strings.TrimPrefix(strings.TrimPrefix(err.Error(), "error unmarshaling JSON: "), "while decoding JSON: "))
	}
	if err := check(&guard); err != nil {
		return nil, err
	}
	data, err := json.Marshal(guard) // A name in other letters was understood, and must not stand beside the right one.
	if err != nil {
		return nil, err
	}
	var settings Settings
	return settings, json.Unmarshal(data, &settings)
}

// isTolerable matches a percentage of pods that may be missing.
var isTolerable = regexp.MustCompile(`^(100|[1-9]?[0-9])%$`)

// check returns an error for a value that the CRD would not admit.
func check(guard *v1alpha1.Guard) error {
	within := func(name string, value *int32, most int32) error {
		if value != nil && (*value < 0 || *value > most) {
			return fmt.Errorf("%s is %d; it must be from 0 to %d", name, *value, most)
		}
		return nil
	}
	oneOf := func(name, value string, values ...string) error {
		if value != "" && !slices.Contains(values, value) {
			return fmt.Errorf("%s is %q; it must be %s", name, value, strings.Join(values, " or "))
		}
		return nil
	}
	const day = 86400
	for _, err := range []error{
		oneOf("onFailure", string(guard.OnFailure), string(v1alpha1.Rollback), string(v1alpha1.Hold)),
		within("maxRestarts", guard.MaxRestarts, 1<<31-1),
		within("stuckSeconds", guard.StuckSeconds, day),
		within("soakSeconds", guard.SoakSeconds, day),
		within("retries", guard.Retries, 100),
		oneOf("pinImages", string(guard.PinImages), string(v1alpha1.PinNever), string(v1alpha1.PinWhenMoved), string(v1alpha1.PinAlways)),
	} {
		if err != nil {
			return err
		}
	}
	if t := guard.ToleratedPods; t != nil && ((t.Type == intstr.Int && t.IntVal < 0) || (t.Type == intstr.String && !isTolerable.MatchString(t.StrVal))) {
		return fmt.Errorf("toleratedPods is %s; it must be a number of pods from 0 on, or a percentage from 0%% to 100%%", t.String())
	}
	return nil
}

// settings finds the guard of each Deployment.
type settings struct {
	kube     kubernetes.Interface
	defaults Settings

	mu         sync.Mutex
	namespaces map[string]namespaceSettings
}

// namespaceSettings is what a Namespace says, and when it was read.
type namespaceSettings struct {
	text    string // of its annotation
	optsOut bool   // its Deployments without a label are not to be guarded
	at      time.Time
}

func newSettings(kube kubernetes.Interface, defaults Settings) *settings {
	return &settings{kube: kube, defaults: defaults, namespaces: map[string]namespaceSettings{}}
}

// of returns the guard of a Deployment: for each field what its own annotation says, or else its Namespace's, or else the defaults. An
// annotation that cannot be read counts as not there, and unusable says so.
func (s *settings) of(ctx context.Context, d *appsv1.Deployment) (guard *v1alpha1.Guard, unusable string) {
	all := maps.Clone(s.defaults)
	if all == nil {
		all = Settings{}
	}
	for _, from := range []struct{ whose, text string }{
		{"Namespace " + d.Namespace, s.ofNamespace(ctx, d.Namespace).text},
		{"this Deployment", d.Annotations[v1alpha1.GuardAnnotation]},
	} {
		if from.text == "" {
			continue
		}
		settings, err := ParseSettings(from.text)
		if err != nil {
			unusable += fmt.Sprintf(" annotation %s of %s is not used, and what it sets is as without it: %v;", v1alpha1.GuardAnnotation, from.whose, err)
			continue
		}
		maps.Copy(all, settings)
	}
	guard = &v1alpha1.Guard{}
	data, err := json.Marshal(all)
	if err == nil {
		err = json.Unmarshal(data, guard)
	}
	if err != nil {
		panic(fmt.Sprintf("merge settings that were read one by one: %v", err))
	}
	return guard, strings.TrimSuffix(strings.TrimSpace(unusable), ";")
}

// optsOut reports whether a Namespace does not want its Deployments guarded that do not ask for it.
func (s *settings) optsOut(ctx context.Context, name string) bool {
	return s.ofNamespace(ctx, name).optsOut
}

// ofNamespace returns what a Namespace says: nothing if it may not be read.
func (s *settings) ofNamespace(ctx context.Context, name string) namespaceSettings {
	known, err := s.read(ctx, name)
	if err != nil {
		klog.FromContext(ctx).V(2).Info("The settings of the Namespace are not known", "reason", err)
	}
	return known
}

// read returns what a Namespace says, as it was read within namespaceFor, or the last time that it could be. An error says that it was
// never read, and trying again may help.
func (s *settings) read(ctx context.Context, name string) (namespaceSettings, error) {
	s.mu.Lock()
	known, ok := s.namespaces[name]
	s.mu.Unlock()
	if ok && time.Since(known.at) < namespaceFor {
		return known, nil
	}
	namespace, err := s.kube.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
	switch {
	case err == nil:
		known.text = namespace.Annotations[v1alpha1.GuardAnnotation]
		known.optsOut = namespace.Labels[v1alpha1.GuardedLabel] == v1alpha1.NotGuarded
	case !ok && !apierrors.IsForbidden(err) && !apierrors.IsNotFound(err):
		return known, fmt.Errorf("get Namespace: %w", err)
	default:
		klog.FromContext(ctx).V(2).Info("The settings of the Namespace are as they were", "reason", err)
	}
	known.at = time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.namespaces, func(_ string, n namespaceSettings) bool { return time.Since(n.at) > forgottenAfter })
	s.namespaces[name] = known
	return known, nil
}
