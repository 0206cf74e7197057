defmodule Leash.Worker.MachineTest do
  use ExUnit.Case, async: true

  alias Leash.Exit
  alias Leash.Worker.Machine

  # Lives of trees. Each is a random order of events. Most events of a life can come next, and now
  # and then one is late or out of place. A life that fails names its seed.
  @lives 2_000
  @random_events 25
  # Counts from the beginning of an end: three stages, the shim's exit, two pipes, and the events
  # between.
  @most_steps 12

  @pid 4_711
  @ladders [[], [sigterm: 300], [sigterm: :infinity], [{:close_stdin, 10}, {:sigterm, 20}]]

  # The state that a driver and the world outside of the machine know.
  defp life(seed) do
    :rand.seed(:exsss, seed)

    %{
      machine: %Machine{
        stop: Enum.random(@ladders),
        linger: Enum.random([0, 2_000, :infinity, nil]),
        on_crash: Enum.random([:ladder, :kill]),
        detach?: Enum.random([true, false, false]),
        await_exit?: Enum.random([true, true, false]),
        ready?: Enum.random([true, false]),
        outputs: Enum.random(0..2)
      },
      said: [],
      timer: nil,
      channel: :open,
      hunt?: false,
      awaited?: false,
      proof?: false,
      asked: MapSet.new(),
      answered: [],
      restarts: [],
      # Some lives are asked for nothing else, so that a restart is what becomes of them.
      restarts_only?: Enum.random([true, false]),
      actions: [],
      events: []
    }
  end

  defp live(life, 0), do: life
  defp live(life, left), do: life |> step(Enum.random(possible(life))) |> live(left - 1)

  # All events that depend on time and kernel, and none that a user requests.
  defp finish(life, most) do
    cond do
      life.machine.phase == :done ->
        life

      most == 0 ->
        flunk("does not end: #{inspect(life.machine)}, #{inspect(Enum.reverse(life.events))}")

      true ->
        life |> step(Enum.random(fair(life))) |> finish(most - 1)
    end
  end

  defp fair(life) do
    timer = if life.timer, do: [{:timeout, life.timer}], else: []
    proof = if life.hunt?, do: [{:proof, :gone}, {:proof, {:left, []}}], else: []
    shim = if life.awaited?, do: [:shim_ended], else: []

    case timer ++ proof ++ shim do
      # A ladder without an end waits for its tree, which ends with a report or with the shim.
      [] -> if life.channel == :open, do: [:hung_up], else: [:output_ended]
      some -> some
    end
  end

  defp possible(life) do
    how = Enum.random([:ladder, :kill])

    restart = [
      {:restart, {self(), make_ref()}},
      {:await, {waiting(), make_ref()}},
      {:forget, waiting()}
    ]

    end_it = [
      {:stop, {self(), make_ref()}, how},
      {:end, how},
      {:fail, Enum.random([:normal, :crash])},
      {:fail_unhealthy, :timeout},
      {:owner_ended, how}
    ]

    user = if life.restarts_only?, do: restart, else: end_it ++ restart

    leave = if Machine.lasts?(life.machine), do: [{:leave, :shutdown}], else: []
    ready = if life.machine.os_pid, do: [:ready], else: []
    outputs = if life.machine.outputs > 0, do: [:output_ended], else: []
    shim = if life.channel == :open, do: [:hung_up | reports(life.said)], else: []
    timer = Enum.random([:ladder, :kill, :sigkill, :exit, :drain])
    # A message may hold more than the report that ends it all.
    report = if life.channel == :closed, do: [{:report, {:started, @pid}}], else: []
    late = [{:timeout, timer}, :shim_ended] ++ report

    # Most events are the shim's reports, and late ones are rare.
    Enum.random([shim, shim, shim, fair(life), user, leave ++ ready ++ outputs ++ late])
    |> case do
      [] -> fair(life)
      some -> some
    end
  end

  # One of few processes, so that some wait twice.
  defp waiting, do: :erlang.list_to_pid(~c"<0.#{Enum.random(1..3)}.0>")

  # The orders in which a shim reports (native/PROTOCOL.md, section 2).
  defp reports([]),
    do: [
      {:report, {:ready, %{mark: Enum.random([:set, :off, {:error, 1}]), shim: 7}}},
      {:report, {:spawned, 7}},
      {:report, {:start_failed, :shim, 2}}
    ]

  defp reports([last | _] = said) do
    kinds = Enum.map(said, &elem(&1, 0))

    cond do
      match?({:start_failed, :shim, _}, last) -> []
      :gone in kinds -> []
      :start_failed in kinds -> [gone()]
      :started in kinds and :exited in kinds -> [gone(), step(), command()]
      :started in kinds -> [{:report, {:exited, {:status, 3}}}, step(), gone()]
      true -> [{:report, {:started, @pid}}, {:report, {:start_failed, :exec, 2}}, gone()]
    end
  end

  defp step, do: {:report, {:step, :stop, Enum.random([:sigterm, :close_stdin]), 1}}
  defp command, do: {:report, {:command, 0, {:status, 0}}}

  defp gone,
    do: {:report, {:gone, %Exit{cause: Enum.random([:exited, :stop, :kept]), status: 0}}}

  defp step(life, event) do
    before = life.machine
    {machine, actions} = Machine.handle(event, before)
    life = %{life | machine: machine, events: [event | life.events]} |> noted(event)
    life = Enum.reduce(actions, life, &carried_out/2)
    assert_holds(life, before, actions)
    life
  end

  defp noted(life, {:report, report}) do
    proof? = life.proof? or match?({:gone, _}, report) or match?({_, :shim, _}, report)
    %{life | said: [report | life.said], proof?: proof?}
  end

  defp noted(life, {:stop, from, _how}), do: asked(life, from)
  defp noted(life, {:restart, from}), do: asked(%{life | restarts: [from | life.restarts]}, from)

  # A process that waits again has given up before.
  defp noted(life, {:await, {pid, _ref} = from}), do: life |> forgotten(pid) |> asked(from)
  defp noted(life, {:forget, pid}), do: forgotten(life, pid)

  defp noted(life, {:timeout, timer}),
    do: %{life | timer: if(life.timer != timer, do: life.timer)}

  defp noted(life, {:proof, verdict}),
    do: %{life | hunt?: false, proof?: life.proof? or verdict == :gone}

  defp noted(life, :shim_ended), do: %{life | awaited?: false}
  defp noted(life, :hung_up), do: %{life | channel: :closed}
  defp noted(life, _event), do: life

  defp asked(life, from), do: %{life | asked: MapSet.put(life.asked, from)}

  defp forgotten(life, pid) do
    answered? = &(elem(&1, 0) != pid or &1 in life.answered)
    %{life | asked: life.asked |> Enum.filter(answered?) |> MapSet.new()}
  end

  defp carried_out({:timer, timer, ms}, life) do
    assert is_integer(ms) and ms >= 0
    %{act(life, :timer) | timer: timer}
  end

  defp carried_out(:cancel_timer, life), do: %{life | timer: nil}
  defp carried_out(:close, life), do: %{life | channel: :closed}
  defp carried_out(:hunt, life), do: %{life | hunt?: true}
  defp carried_out(:await_exit, life), do: %{life | awaited?: true}

  defp carried_out({:ask, how}, life) do
    refute life.proof?, told(life, "asks for #{how} after the proof")
    act(life, {:ask, how})
  end

  defp carried_out({:signal, how}, life) do
    refute life.proof?, told(life, "signals #{how} after the proof")
    act(life, {:signal, how})
  end

  defp carried_out({:row, [tree: :gone]}, life) do
    assert life.proof?, told(life, "says that the tree is gone without a proof")
    act(life, :gone)
  end

  defp carried_out({:row, [tree: :ending]}, life) do
    refute :gone in life.actions, told(life, "is ending after it was gone")
    life
  end

  defp carried_out({:answer, from, result}, life) do
    assert MapSet.member?(life.asked, from)
    refute from in life.answered, told(life, "answers twice")
    # Only a restart is refused before the end.
    refused? = from in life.restarts and match?({:error, _why}, result)
    assert life.machine.phase == :done or refused?
    refute from in life.restarts and match?({:ok, _exit}, result)

    if match?({:ok, _exit}, result),
      do: assert(life.proof?, told(life, "answers with an exit without a proof"))

    %{life | answered: [from | life.answered]}
  end

  defp carried_out(:over, life) do
    refute :over in life.actions, told(life, "is over twice")
    act(life, :over)
  end

  defp carried_out(_other, life), do: life

  defp act(life, action), do: %{life | actions: [action | life.actions]}

  defp assert_holds(life, before, actions) do
    # Only timers that one of the actions has set may run.
    assert life.timer == life.machine.timer, told(life, "has another timer than it knows")
    if before.ending == :kill, do: assert(life.machine.ending == :kill)

    if before.phase == :done do
      assert life.machine.phase == :done

      assert Enum.all?(actions, &match?({:answer, _from, _result}, &1)),
             told(life, "acts at its end")
    end
  end

  defp told(life, what), do: "#{what}: #{inspect(Enum.reverse(life.events), limit: :infinity)}"

  @tag :slow
  test "a life ends in bounded steps, with one answer per caller, and no signal after proof" do
    for seed <- 1..@lives do
      life = life(seed) |> live(:rand.uniform(@random_events))
      # A second request would end a ladder that waits for ever.
      life = if life.machine.phase == :running, do: step(life, {:end, :ladder}), else: life
      life = finish(life, @most_steps)

      assert life.channel == :closed, "seed #{seed}: the channel is left open"
      assert life.timer == nil, "seed #{seed}: a timer is left"
      assert :over in life.actions, "seed #{seed}: nothing notes the end"
      # The driver answers these, when it has started the program again.
      left = MapSet.difference(life.asked, MapSet.new(life.answered))
      assert left == MapSet.new(life.machine.restarters), "seed #{seed}: an answer is missing"
      assert life.machine.result != nil

      case Machine.outcome(life.machine) do
        :restart -> assert life.proof? and MapSet.size(left) > 0
        {kind, _} when kind in [:reason, :exit] -> assert MapSet.size(left) == 0
      end

      # A later request gets the same answer at once.
      from = {self(), make_ref()}
      life = %{life | asked: MapSet.put(life.asked, from)}
      assert %{answered: [^from | _]} = step(life, {:stop, from, :kill})
    end
  end

  @tag :slow
  test "random lives come by every phase, and by every action" do
    phases = [:launching, :running, :ending, :exiting, :proving, :draining, :done]

    {seen, acted} =
      for seed <- 1..500, reduce: {MapSet.new(), MapSet.new()} do
        {seen, acted} ->
          :rand.seed(:exsss, seed)
          {life, seen} = watch(life(seed), seen, @random_events)
          restart = if life.machine.phase == :done, do: [Machine.outcome(life.machine)], else: []
          {seen, MapSet.union(acted, MapSet.new(restart ++ life.actions))}
      end

    assert Enum.sort(MapSet.to_list(seen)) == Enum.sort(phases)

    for action <- [
          :restart,
          :gone,
          :over,
          :timer,
          {:ask, :ladder},
          {:ask, :kill},
          {:signal, :sigkill}
        ],
        do: assert(action in acted, "never #{inspect(action)}")
  end

  defp watch(life, seen, 0), do: {life, seen}

  defp watch(life, seen, left) do
    seen = MapSet.put(seen, life.machine.phase)
    life |> step(Enum.random(possible(life))) |> watch(seen, left - 1)
  end

  ## The single steps

  defp machine(fields \\ []),
    do: struct!(%Machine{stop: [sigterm: 300], linger: 2_000, on_crash: :kill}, fields)

  defp handle(machine, events) do
    Enum.reduce(events, {machine, []}, fn event, {machine, done} ->
      {machine, actions} = Machine.handle(event, machine)
      {machine, done ++ actions}
    end)
  end

  @ready {:report, {:ready, %{mark: :set, shim: 7}}}
  @started {:report, {:started, @pid}}

  test "a ladder that takes too long becomes SIGKILL, then SIGKILL to the shim, then a hunt" do
    {machine, _actions} = handle(machine(), [@ready, @started])
    {machine, actions} = Machine.handle({:end, :ladder}, machine)
    assert actions == [{:row, tree: :ending}, {:ask, :ladder}, {:timer, :ladder, 1_300}]
    {machine, actions} = Machine.handle({:timeout, :ladder}, machine)
    assert actions == [{:row, tree: :ending}, {:ask, :kill}, {:timer, :kill, 1_000}]
    {machine, actions} = Machine.handle({:timeout, :kill}, machine)
    assert actions == [{:signal, :sigkill}, {:timer, :sigkill, 1_000}]
    {machine, actions} = Machine.handle({:timeout, :sigkill}, machine)
    assert actions == [:close, :hunt]
    assert machine.phase == :proving
  end

  test "an end that was asked for counts from the first report on" do
    from = {self(), make_ref()}
    {machine, actions} = handle(machine(), [{:stop, from, :ladder}, @ready])
    assert {:ask, :ladder} in actions
    assert List.last(actions) == {:row, tree: :ending}
    assert machine.failure == :stopping
  end

  test "a program that exits by itself leaves its rest the linger, and then the ladder's time" do
    {_machine, actions} =
      handle(machine(), [@ready, @started, {:report, {:exited, {:status, 0}}}])

    assert List.last(actions) == {:timer, :ladder, 3_300}
    endless = machine(linger: :infinity)
    {endless, _actions} = handle(endless, [@ready, @started])
    assert {_machine, []} = Machine.handle({:report, {:exited, {:status, 0}}}, endless)
  end

  test "a detached tree without its mark is ended: it could not be found again" do
    {machine, actions} =
      handle(machine(detach?: true), [{:report, {:ready, %{mark: {:error, 1}, shim: 7}}}])

    assert {:ask, :kill} in actions
    assert machine.failure == {:mark, :eperm}
  end

  test "a shim's last report is enough for a command, and for others its exit comes after" do
    events = [@ready, @started, {:report, {:gone, %Exit{cause: :exited, status: 0}}}]
    {command, actions} = handle(machine(await_exit?: false), events)
    assert command.phase == :done
    assert Enum.take(actions, -4) |> Enum.member?({:row, tree: :gone})

    {worker, actions} = handle(machine(), events)
    assert worker.phase == :exiting
    refute {:row, tree: :gone} in actions
    {worker, actions} = Machine.handle(:hung_up, worker)
    assert actions == [:close, :await_exit]
    {worker, _actions} = Machine.handle(:shim_ended, worker)
    assert {worker.phase, Machine.outcome(worker)} == {:done, {:exit, elem(worker.result, 1)}}
  end

  test "a restart is one ladder, and a stop or a crash of the process is stronger" do
    gone = [{:report, {:gone, %Exit{cause: :stop, status: 0}}}, :hung_up, :shim_ended]
    {restart, stop} = {{self(), make_ref()}, {self(), make_ref()}}
    {machine, actions} = handle(machine(), [@ready, @started, {:restart, restart}])
    assert {:ask, :ladder} in actions

    {restarted, actions} = handle(machine, gone)
    assert {Machine.outcome(restarted), restarted.restarters} == {:restart, [restart]}
    assert List.keyfind(actions, :answer, 0) == nil

    {stopped, actions} = handle(machine, [{:stop, stop, :ladder} | gone])
    assert {:answer, restart, {:error, :stopping}} in actions
    assert {:answer, stop, stopped.result} in actions
    assert Machine.outcome(stopped) == {:reason, :normal}

    {_ended, actions} = handle(machine, [{:end, :kill}])
    assert [{:answer, ^restart, {:error, :stopping}} | _] = actions
  end

  test "what a hunt did not see is no proof" do
    {machine, _actions} = handle(machine(), [@ready, @started, :hung_up])
    {machine, actions} = Machine.handle({:proof, {:unproven, :emfile}}, machine)
    assert {:unproven, :emfile} in actions
    refute {:row, tree: :gone} in actions
    assert machine.result == {:error, %Leash.Error{reason: {:unproven, :emfile}}}
    assert Machine.outcome(machine) == {:reason, {:unproven, :emfile}}
  end
end
