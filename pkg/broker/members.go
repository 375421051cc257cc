package broker

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/zap"
)

// members mends what kfake does to members of consumer groups that Kafka does not. A session runs on while its member
// waits for the answer to a JoinGroup, so one that waits longer, because another member is dead, is forgotten and never
// answered: it is kept alive here. And a session begins with the answer to a JoinGroup, so of a member whose connection
// is gone by then none does: it counts as a member, with partitions that nobody reads, until it is made to leave here.
type members struct {
	mu     sync.Mutex
	groups map[string]*watched
}

// watched is a group of which somebody joined.
type watched struct {
	session time.Duration        // the longest that a member asked for
	seen    map[string]time.Time // by member: its last sign of life, or when it was first met without one
	joining map[string]bool      // members that wait for the answer to a JoinGroup
}

const (
	membersInterval = 300 * time.Millisecond // below the least session
	sessionSlack    = 2 * time.Second        // beyond the session, after which kfake itself removes a member
)

// observeMembers notes who joins and who shows signs of life.
func (b *Broker) observeMembers() {
	observe := func(key kmsg.Key, note func(kmsg.Request)) {
		b.cluster.ControlKey(key.Int16(), func(r kmsg.Request) (kmsg.Response, error, bool) {
			b.cluster.KeepControl()
			b.members.mu.Lock()
			defer b.members.mu.Unlock()
			note(r)
			return nil, nil, false
		})
	}
	m := &b.members
	observe(kmsg.JoinGroup, func(r kmsg.Request) {
		req := r.(*kmsg.JoinGroupRequest)
		g := m.groups[req.Group]
		if g == nil {
			g = &watched{seen: map[string]time.Time{}, joining: map[string]bool{}}
			m.groups[req.Group] = g
		}
		g.session = max(g.session, time.Duration(req.SessionTimeoutMillis)*time.Millisecond)
		if req.MemberID != "" {
			g.joining[req.MemberID] = true
		}
	})
	observe(kmsg.SyncGroup, func(r kmsg.Request) {
		req := r.(*kmsg.SyncGroupRequest)
		m.alive(req.Group, req.MemberID)
	})
	observe(kmsg.Heartbeat, func(r kmsg.Request) {
		req := r.(*kmsg.HeartbeatRequest)
		m.alive(req.Group, req.MemberID)
	})
}

func (m *members) alive(group, member string) {
	if g := m.groups[group]; g != nil {
		g.seen[member] = time.Now()
	}
}

// look tells which members are to be kept alive because they wait, with their group's generation, and which are to leave:
// those of stable groups that gave no sign of life for longer than any session of their group.
func (b *Broker) look(now time.Time) (waiting []kafka.HeartbeatRequest, silent []kafka.LeaveGroupRequest) {
	m := &b.members
	m.mu.Lock()
	names := slices.Collect(maps.Keys(m.groups))
	m.mu.Unlock()
	for _, name := range names {
		info := b.cluster.GroupInfo(name) // waits for requests, which wait for the lock
		m.mu.Lock()
		g := m.groups[name]
		switch {
		case info == nil || info.State == "Empty" || info.State == "Dead":
			delete(m.groups, name)
		case info.State == "PreparingRebalance":
			clear(g.seen) // who joins shows no sign until that is done
			for _, member := range info.Members {
				if g.joining[member.MemberID] {
					waiting = append(waiting, kafka.HeartbeatRequest{GroupID: name, GenerationID: info.Epoch, MemberID: member.MemberID})
				}
			}
		case info.State == "Stable":
			clear(g.joining)
			seen := make(map[string]time.Time, len(info.Members))
			leave := kafka.LeaveGroupRequest{GroupID: name}
			for _, member := range info.Members {
				at, ok := g.seen[member.MemberID]
				if !ok {
					at = now
				}
				seen[member.MemberID] = at
				if now.Sub(at) > g.session+sessionSlack {
					leave.Members = append(leave.Members, kafka.LeaveGroupRequestMember{ID: member.MemberID})
				}
			}
			g.seen = seen
			if len(leave.Members) > 0 {
				silent = append(silent, leave)
			}
		}
		m.mu.Unlock()
	}
	return waiting, silent
}

// tendMembers does what look says, until the broker stops.
func (b *Broker) tendMembers() {
	defer b.wg.Done()
	tick := time.NewTicker(membersInterval)
	defer tick.Stop()
	client := &kafka.Client{Addr: kafka.TCP(b.addr), Transport: b.transport, Timeout: 5 * time.Second}
	for {
		select {
		case <-b.stop:
			return
		case now := <-tick.C:
			waiting, silent := b.look(now)
			for i := range waiting { // the answer is that a rebalance is under way, or that it is over
				_, _ = client.Heartbeat(context.Background(), &waiting[i])
			}
			for i := range silent {
				res, err := client.LeaveGroup(context.Background(), &silent[i])
				if err == nil {
					err = res.Error
				}
				b.opts.Logger.Info("members of a group are gone, which died while they joined", zap.String("group", silent[i].GroupID), zap.Int("members", len(silent[i].Members)), zap.Error(err))
			}
		}
	}
}
