package validate

import "github.com/welfarehub/welfarehub/pkg/event"

var unitFTE = symbol("CapacityChanged", "unit", "FTE")

func checkCapacity(_ *plan, in *input) {
	vals := in.row.Vals
	authorised, operational, occupied := vals[event.CapacityChangedAuthorised].Int, vals[event.CapacityChangedOperational].Int, vals[event.CapacityChangedOccupied].Int
	if operational < 0 {
		in.reject(E20, "operational", "operational is below 0")
	}
	if authorised < operational {
		in.reject(E20, "authorised", "authorised is below operational; capacity that is open must be authorised")
	}
	if occupied < 0 {
		in.reject(E20, "occupied", "occupied is below 0; send the snapshot, not the change")
	}
	if funded := &vals[event.CapacityChangedFunded]; !funded.Null && funded.Int < 0 {
		in.reject(E20, "funded", "funded is below 0")
	}
	if occupied > operational {
		in.flag(FlagW21)
	}
	if operational == 0 && occupied > 0 {
		in.flag(FlagW24)
	}
}

func checkProfession(_ *plan, in *input) {
	has := in.given(event.CapacityChangedProfession)
	switch fte := in.symbolIs(event.CapacityChangedUnit, unitFTE); {
	case fte && !has:
		in.reject(E22, "profession", "profession is missing; with unit FTE it says whose work is counted")
	case has && !fte && !in.row.Vals[event.CapacityChangedUnit].Unknown:
		in.reject(E22, "profession", "profession is there, but the unit is not FTE; leave it null, or count staff in FTE")
	}
}
