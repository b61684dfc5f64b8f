// Package till is what the test of hack/mutation changes: its own tests miss some of it.
package till

import "time"

const dozen = 12

type seconds int

// Price is the price of so many: of a dozen, members get one for free.
func Price(count, each int, member bool) (price int) {
	if count < 1 || each < 0 {
		panic("nothing to pay for")
	}
	if price = count * each; member && count >= dozen {
		price -= each
	}
	return price
}

// Coins is how many coins of a kind the change is paid with.
func Coins(change, coin int) int {
	coins := 0
	for change > 0 {
		change -= coin
		coins++
	}
	return coins
}

// Open is how long the till stays open.
func Open() time.Duration { return time.Duration(2) * time.Minute }

// Next has a parameter of the name of its type, so that the type has no name in it.
func Next(seconds seconds) (seconds, error) { return seconds + 1, nil }
