package till

import (
	"testing"
	"time"
)

func TestPrice(t *testing.T) {
	for _, test := range []struct {
		count, each int
		member      bool
		want        int
	}{{1, 5, false, 5}, {12, 5, false, 60}, {11, 5, true, 55}, {12, 5, true, 55}} {
		if got := Price(test.count, test.each, test.member); got != test.want {
			t.Errorf("%d for %d: got %d, want %d", test.count, test.each, got, test.want)
		}
	}
}

func TestCoins(t *testing.T) {
	if got := Coins(6, 2); got != 3 {
		t.Errorf("got %d coins, want 3", got)
	}
}

func TestOpen(t *testing.T) {
	if got := Open(); got < time.Minute {
		t.Errorf("got %s, want a minute at least", got)
	}
}
