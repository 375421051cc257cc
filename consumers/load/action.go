package load

// actionNames name the actions as the points of faults do.
var actionNames = [...]string{
	actPosition: "position", actTail: "tail", actHeal: "heal", actStart: "start", actLearn: "learn", actGather: "gather",
	actRefetch: "refetch", actRestore: "restore", actFetch: "fetch", actDecide: "decide", actResolve: "resolve", actClaim: "claim",
	actInsert: "insert", actAgain: "again", actVerify: "verify", actTell: "tell", actSettle: "settle", actStop: "stop",
}

func (a action) String() string { return actionNames[a] }
