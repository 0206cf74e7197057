defmodule Leash.Reaper do
  # Hands out worker numbers, and answers for every tree whose Worker process is gone.
  #
  # While a Worker lives it ends its own tree. When it dies its port closes and the shim begins the
  # ladder by itself; the Reaper then decides how hard (a crash means SIGKILL at once), wakes a
  # stopped shim, ends what a dead shim left, and frees the number only when nothing is left.
  #
  #   register ──▶ alive ──Worker :DOWN──▶ ending ──shim's pidfd──▶ verifying ──none left──▶ free
  #                                          │ past its time: QUIT, then KILL of the shim ▲
  #                                          └────────────────────────────────────────────┘
  @moduledoc false

  use GenServer

  require Logger

  alias Leash.{Detached, Group, HeldShim, Hunt, Ladder, LastExits, Native, Telemetry, Workers}

  @numbers 32_766

  # What a ladder may take beyond its own steps before the shim is taken for stuck.
  @slack_ms 1_000
  # From QUIT to KILL of a shim, and from there to looking at what it left.
  @stuck_ms 1_000
  # A shim whose exec is still under way carries no tag yet; it ends at once by itself, since its
  # leash is closed, but the proof has to wait until it could be seen.
  @unseen_shim_ms 1_000
  # How long a number may stay taken after its tree is gone.
  @look_again_ms 1_000
  # How long what a shim of a port left may live, when it was killed; and what part of the time looking may take
  # while short programs end one after the other.
  @look_soon_ms 50
  @looking_share 10
  # From somebody who asks us to an answer.
  @answer_ms 500

  # Not TERM, which a shim ignores when it comes from pid 1 (everybody was signalled): in a container we are that.
  @sigint 2
  @sigquit 3
  @sigkill 9
  @sigcont 18

  @spec start_link(keyword()) :: GenServer.on_start()
  def start_link(options), do: GenServer.start_link(__MODULE__, options, name: __MODULE__)

  @doc "Registers the calling Worker and gives it a number whose last tree is proven gone."
  @spec register(Workers.description()) ::
          {:ok, pos_integer()} | {:error, :not_running | :stopping | :too_many_workers}
  def register(description) do
    GenServer.call(__MODULE__, {:register, description}, :infinity)
  catch
    :exit, _not_there -> {:error, :not_running}
  end

  @doc """
  Registers the calling process for a detached tree, which nobody else of this VM may hold.

  A tree of this very run keeps its number, which its Worker left behind.
  """
  @spec adopt(Workers.description()) ::
          {:ok, pos_integer()}
          | {:error, :not_running | :stopping | :too_many_workers | {:already_started, pid()}}
  def adopt(description) do
    GenServer.call(__MODULE__, {:adopt, description}, :infinity)
  catch
    :exit, _not_there -> {:error, :not_running}
  end

  @doc """
  Signals a shim, and wakes it if it is stopped.

  `:ladder` is for once only: a second one means SIGKILL to the shim's tree. A shim that is gone has done what it was to do, so
  an error is one of the machine: it refuses such signals.
  """
  @spec signal_shim(Native.fd(), :wake | :ladder | :kill | :sigkill) :: :ok | {:error, term()}
  def signal_shim(fd, how) do
    signal = %{wake: @sigcont, ladder: @sigint, kill: @sigquit, sigkill: @sigkill}[how]

    sent = Native.pidfd_signal(fd, signal)
    _ = Native.pidfd_signal(fd, @sigcont)
    with {:error, reason} when reason in [:esrch, :closed] <- sent, do: :ok
  end

  @doc "Like `signal_shim/2`, but that a shim whose ladder somebody else has begun is only woken."
  @spec tell_shim(pos_integer(), Native.fd(), :ladder | :kill) :: :ok | {:error, term()}
  def tell_shim(number, fd, :ladder),
    do: signal_shim(fd, if(Workers.first_to_tell?(number), do: :ladder, else: :wake))

  def tell_shim(_number, fd, :kill), do: signal_shim(fd, :kill)

  @doc """
  Closes a group for starts until the caller ends or calls `open/0`.

  Until then the caller gets `{:leash_free, number}` for each number whose tree is proven gone, and
  `{:leash_left, numbers, survivors}` where some could not be ended. Who was left by an earlier hunt is looked for again.
  """
  @spec close(Group.t() | :all) :: :ok | {:error, :not_running}
  def close(group), do: ask({:close, group})

  # How often, and how long in all, a Reaper that is away is looked for.
  @reattach_ms 100
  @reattach_tries 50

  @doc """
  Monitors the Reaper, which restarts after a crash. While it is away the caller gets `{:leash, {:reattach, tries}}` to call
  this with again; `:away` is for the last time.
  """
  @spec reattach(non_neg_integer()) :: {:ok, reference()} | :later | :away
  def reattach(tries \\ @reattach_tries)
  def reattach(0), do: :away

  def reattach(tries) do
    if Process.whereis(__MODULE__) do
      {:ok, Process.monitor(__MODULE__)}
    else
      Process.send_after(self(), {:leash, {:reattach, tries - 1}}, @reattach_ms)
      :later
    end
  end

  @doc "Opens again what the caller closed."
  @spec open() :: :ok | {:error, :not_running}
  def open, do: ask(:open)

  # Nobody who ends workers may wait for long for a process that does not answer.
  defp ask(request) do
    GenServer.call(__MODULE__, request, @answer_ms)
  catch
    :exit, _not_there -> {:error, :not_running}
  end

  @doc "How hard a tree is ended for an exit reason: in order by the ladder, after a crash at once."
  @spec how(term()) :: :ladder | :kill
  def how(:normal), do: :ladder
  def how(:shutdown), do: :ladder
  def how({:shutdown, _}), do: :ladder
  def how(_crash), do: :kill

  @impl true
  def init(options) do
    Process.flag(:trap_exit, true)

    state = %{
      run: Keyword.fetch!(options, :run),
      last: 0,
      # monitor => number, while the Worker lives
      monitors: %{},
      # numbers whose shim is being waited for => its timer
      ending: %{},
      # numbers to be proven gone, by the hunt under way and by the next
      hunting: nil,
      to_verify: MapSet.new(),
      # the timer of the next look at what ended in order, and the numbers that wait for it
      look_again: nil,
      later: MapSet.new(),
      # when the hunt under way began, and how long the last one took
      hunt_began: 0,
      hunt_took: 0,
      # who stops a group at the moment: monitor => {pid, group}
      closers: %{},
      # detached trees that live on without a Worker
      left: MapSet.new(),
      # who is to have the name of a tree that is still ending: {its number, description, from}
      heirs: []
    }

    # After a crash of this process the table says who is to be watched.
    {:ok, Enum.reduce(Workers.all(), state, &watch/2)}
  end

  defp watch(row, state) do
    monitor = Process.monitor(row.pid)

    %{
      state
      | monitors: Map.put(state.monitors, monitor, row.number),
        last: max(state.last, row.number)
    }
  end

  @impl true
  def handle_call({:register, description}, {pid, _tag} = from, state) do
    case predecessor(description, state) do
      nil -> register(description, pid, state)
      number -> {:noreply, %{state | heirs: [{number, description, from} | state.heirs]}}
    end
  end

  def handle_call({:adopt, %{outlives: tree} = description}, {pid, _tag}, state) do
    case Enum.find(Workers.all(), &Detached.of?(&1, tree, state.run.id)) do
      nil -> register(description, pid, state)
      row -> take_over(row, description, pid, state)
    end
  end

  def handle_call({:close, group}, {pid, _tag}, state) do
    closers = Map.put(state.closers, Process.monitor(pid), {pid, group})
    state = %{state | closers: closers}
    # Their Workers are gone, and an earlier hunt could not end what they left.
    given_up = MapSet.difference(MapSet.new(Workers.living(group), & &1.number), in_hand(state))
    {:reply, :ok, hunt(%{state | to_verify: MapSet.union(state.to_verify, given_up)})}
  end

  def handle_call(:open, {pid, _tag}, state) do
    {own, others} =
      Enum.split_with(state.closers, fn {_monitor, {closer, _}} -> closer == pid end)

    for {monitor, _} <- own, do: Process.demonitor(monitor, [:flush])
    {:reply, :ok, %{state | closers: Map.new(others)}}
  end

  # A supervisor starts the next as soon as a Worker is killed, which is before its tree is gone; and two at a time under
  # one name write one log, or want one port.
  defp predecessor(%{name: name}, state) when name != nil do
    ending? = fn row ->
      row.tree != :gone and row.outlives == nil and not Process.alive?(row.pid)
    end

    with %{number: number} <- Enum.find(Workers.named(name), ending?),
         do: if(number in in_hand(state), do: number)
  end

  defp predecessor(_nameless, _state), do: nil

  # What could not be ended is in nobody's way for ever.
  defp inherit(numbers, state) do
    {heirs, waiting} = Enum.split_with(state.heirs, fn {number, _, _} -> number in numbers end)

    Enum.reduce(heirs, %{state | heirs: waiting}, fn {_number, description, {pid, _} = from},
                                                     state ->
      {:reply, answer, state} = register(description, pid, state)
      GenServer.reply(from, answer)
      state
    end)
  end

  defp register(description, pid, state) do
    case closed?(state, description.group) || free_number(state.last, @numbers) do
      true ->
        {:reply, {:error, :stopping}, state}

      nil ->
        {:reply, {:error, :too_many_workers}, state}

      number ->
        row = Workers.row(number, pid, description)
        Workers.put(row)
        {:reply, {:ok, number}, %{watch(row, state) | last: number}}
    end
  end

  defp closed?(state, group),
    do: Enum.any?(state.closers, fn {_, {_, it}} -> Group.includes?(it, group) end)

  # Whose process this very VM had before.
  defp take_over(row, description, pid, state) do
    old = for {monitor, number} <- state.monitors, number == row.number, do: monitor
    monitors = Map.drop(state.monitors, old)

    cond do
      Process.alive?(row.pid) ->
        {:reply, {:error, {:already_started, row.pid}}, state}

      # Its end has begun, or is being looked at.
      closed?(state, description.group) or closed?(state, row.group) or row.tree != :alive or
          (old == [] and not MapSet.member?(state.left, row.number)) ->
        {:reply, {:error, :stopping}, state}

      row.outlives == :own ->
        for monitor <- old, do: Process.demonitor(monitor, [:flush])
        _ = row.shim_fd && Native.pidfd_demonitor(row.shim_fd)
        row = Map.merge(row, %{Map.delete(description, :outlives) | stop: row.stop})
        row = %{row | pid: pid}
        Workers.put(row)
        left = MapSet.delete(state.left, row.number)
        {:reply, {:ok, row.number}, watch(row, %{state | monitors: monitors, left: left})}

      true ->
        for monitor <- old, do: Process.demonitor(monitor, [:flush])
        Workers.delete(row.number)
        register(description, pid, %{state | monitors: monitors})
    end
  end

  defp in_hand(state) do
    hunted = with {_pid, _monitor, numbers} <- state.hunting, do: numbers

    [Map.values(state.monitors), Map.keys(state.ending), hunted || []]
    |> Enum.concat()
    |> MapSet.new()
    |> MapSet.union(state.to_verify)
    |> MapSet.union(state.later)
    |> MapSet.union(state.left)
  end

  # Numbers rise, so that one is not used again while somebody may still think of its last bearer.
  defp free_number(_last, 0), do: nil

  defp free_number(last, left) do
    number = rem(last, @numbers) + 1
    if Workers.taken?(number), do: free_number(number, left - 1), else: number
  end

  @impl true
  def handle_info(
        {:DOWN, monitor, :process, _pid, reason},
        %{hunting: {_, monitor, numbers}} = state
      ) do
    {:noreply,
     hunted(reason, numbers, %{state | hunting: nil, hunt_took: now() - state.hunt_began})}
  end

  def handle_info({:DOWN, monitor, :process, _pid, reason}, state) do
    case Map.pop(state.monitors, monitor) do
      {nil, _monitors} -> {:noreply, %{state | closers: Map.delete(state.closers, monitor)}}
      {number, monitors} -> {:noreply, worker_down(number, reason, %{state | monitors: monitors})}
    end
  end

  def handle_info({:shim_ended, number}, state) do
    # Somebody has taken the tree over meanwhile: it is his to say.
    if number in Map.values(state.monitors),
      do: {:noreply, state},
      else: {:noreply, shim_ended(number, state)}
  end

  def handle_info({:leave, number}, state) do
    case MapSet.member?(state.left, number) && Workers.fetch(number) do
      {:ok, %{shim_fd: nil} = row} -> {:noreply, leave(row, 0, state)}
      _held_or_taken_over -> {:noreply, state}
    end
  end

  def handle_info({:stuck, number, how}, state) when is_map_key(state.ending, number),
    do: {:noreply, stuck(number, how, state)}

  def handle_info(:look_again, state) do
    to_verify = MapSet.union(state.to_verify, state.later)
    {:noreply, hunt(%{state | look_again: nil, later: MapSet.new(), to_verify: to_verify})}
  end

  def handle_info({:verify, number}, state), do: {:noreply, verify(number, state)}
  def handle_info(_other, state), do: {:noreply, state}

  # A shim without reports: its end is the proof where it ended by itself, and where it was killed it is not.
  # Nobody can tell these apart, so the tags are looked for.
  defp worker_down(number, {:shutdown, :shim_ended}, state) do
    case Workers.fetch(number) do
      :error -> state
      {:ok, row} -> look_again(row, max(@look_soon_ms, state.hunt_took * @looking_share), state)
    end
  end

  defp worker_down(number, reason, state) do
    case Workers.fetch(number) do
      :error ->
        state

      {:ok, %{tree: :gone} = row} ->
        look_again(row, @look_again_ms, state)

      {:ok, %{outlives: nil} = row} ->
        # Its Worker could not say how it ended.
        LastExits.put(row.name, nil, reason)
        end_orphan(held(row, state.run), how(reason), state)

      {:ok, row} ->
        outlived(row, state)
    end
  end

  # Of another run: its number here means nothing to anybody.
  defp outlived(%{outlives: tree, number: number}, state) when is_map(tree) do
    Workers.delete(number)
    state
  end

  # It was told before, and is through when its shim is.
  defp outlived(%{tree: :ending} = row, state),
    do: end_orphan(held(row, state.run), :ladder, state)

  defp outlived(row, state), do: leave(row, 1, state)

  # It goes on, and so does its number, until its shim ends. A shim that is not executed yet sees its leash hung up, and
  # starts nothing.
  defp leave(%{number: number} = row, tries, state) do
    left = %{state | left: MapSet.put(state.left, number)}

    case held(row, state.run) do
      %{shim_fd: nil} when tries > 0 ->
        Process.send_after(self(), {:leave, number}, @unseen_shim_ms)
        left

      %{shim_fd: nil} ->
        verify(number, state)

      %{shim_fd: fd} ->
        if Native.pidfd_monitor(fd, {:shim_ended, number}) == :ok,
          do: left,
          else: verify(number, state)
    end
  end

  # A shim that is not held yet.
  defp held(%{shim_fd: nil, shim: pid} = row, run) when pid != nil do
    case HeldShim.open(pid, run.id, row.number) do
      {:ok, fd} -> %{row | shim_fd: fd}
      {:error, _gone} -> row
    end
  end

  defp held(row, _run), do: row

  # The shim's proof covers what can be reparented to it; a process that moved into another pid namespace
  # has its own reaper there, and only its tag tells. One look for all that ended within a second.
  defp look_again(row, ms, state) do
    close_fd(row)
    Workers.change(row.number, shim_fd: nil)
    state = %{state | later: MapSet.put(state.later, row.number)}
    if due_within?(state.look_again, ms), do: state, else: look_after(ms, state)
  end

  defp due_within?(nil, _ms), do: false
  defp due_within?(timer, ms), do: (Process.read_timer(timer) || 0) <= ms

  defp look_after(ms, state) do
    _ = state.look_again && Process.cancel_timer(state.look_again)
    %{state | look_again: Process.send_after(self(), :look_again, ms)}
  end

  # It may be about to start, or has ended.
  defp end_orphan(%{shim_fd: nil, number: number}, _how, state),
    do: wait(number, {:verify, number}, @unseen_shim_ms, state)

  defp end_orphan(row, how, state) do
    # The port is closed, so the ladder has begun; it has to be told only to hurry, or to wake up.
    _ = signal_shim(row.shim_fd, if(how == :kill, do: :kill, else: :wake))

    case Native.pidfd_monitor(row.shim_fd, {:shim_ended, row.number}) do
      :ok -> wait(row.number, {:stuck, row.number, how}, patience(row, how), state)
      {:error, _ended} -> shim_ended(row.number, state)
    end
  end

  defp patience(_row, :kill), do: @stuck_ms

  defp patience(row, :ladder) do
    case Ladder.duration(row.stop) do
      :infinity -> :infinity
      ms -> ms + @slack_ms
    end
  end

  defp wait(number, _message, :infinity, state), do: put_in(state.ending[number], nil)

  defp wait(number, message, ms, state),
    do: put_in(state.ending[number], Process.send_after(self(), message, ms))

  defp stuck(number, how, state) do
    {:ok, row} = Workers.fetch(number)

    case how do
      :ladder ->
        _ = signal_shim(row.shim_fd, :kill)
        wait(number, {:stuck, number, :kill}, @stuck_ms, state)

      :kill ->
        _ = signal_shim(row.shim_fd, :sigkill)
        wait(number, {:stuck, number, :sigkill}, @stuck_ms, state)

      :sigkill ->
        # Not even SIGKILL ended it within a second: look at what is left all the same.
        verify(number, state)
    end
  end

  defp shim_ended(number, state) do
    {timer, ending} = Map.pop(state.ending, number)
    _ = timer && Process.cancel_timer(timer)
    verify(number, %{state | ending: ending})
  end

  # One hunt at a time, for all numbers that came up meanwhile: a thousand Workers killed at once
  # cost a few passes over /proc and not a thousand.
  defp verify(number, state) do
    hunt(%{
      state
      | to_verify: MapSet.put(state.to_verify, number),
        ending: Map.delete(state.ending, number),
        left: MapSet.delete(state.left, number)
    })
  end

  defp hunt(%{hunting: nil} = state) do
    if MapSet.size(state.to_verify) == 0 do
      state
    else
      numbers = MapSet.to_list(state.to_verify)
      {pid, monitor} = Hunt.start(Hunt.of_workers(state.run, numbers))
      %{state | hunting: {pid, monitor, numbers}, to_verify: MapSet.new(), hunt_began: now()}
    end
  end

  defp hunt(state), do: state

  defp hunted({:shutdown, {:ok, report}}, numbers, state) do
    left = MapSet.new(report.survivors, & &1.worker)
    {kept, freed} = Enum.split_with(numbers, &(&1 in left or nil in left))

    if kept != [] do
      log_survivors(report.survivors)
      tell_closers(state, {:leash_left, kept, report.survivors})
    end

    # An unfinished tree keeps its number: nobody else's mark may ever equal it.
    state = Enum.reduce(freed, state, &free/2)
    numbers |> inherit(state) |> hunt()
  end

  defp hunted(failure, numbers, state) do
    Logger.error(
      "Leash could not verify that workers #{inspect(numbers)} are gone: #{inspect(failure)}"
    )

    numbers |> inherit(state) |> hunt()
  end

  defp now, do: System.monotonic_time(:millisecond)

  defp free(number, state) do
    with {:ok, row} <- Workers.fetch(number) do
      close_fd(row)
      if unseen_end?(row), do: Telemetry.worker_stop(number, nil)
    end

    Workers.delete(number)
    tell_closers(state, {:leash_free, number})
    state
  end

  # Of what ran and whose Worker did not live to say so.
  defp unseen_end?(row), do: row.tree != :gone and (row.os_pid != nil or row.kind == :port)

  defp tell_closers(state, message),
    do: Enum.each(state.closers, fn {_monitor, {pid, _group}} -> send(pid, message) end)

  defp close_fd(%{shim_fd: nil}), do: :ok
  defp close_fd(%{shim_fd: fd}), do: Native.fd_close(fd)

  defp log_survivors(survivors) do
    Logger.error([
      "Leash could not end: ",
      Enum.map_join(survivors, ", ", &"#{&1.pid} (#{&1.command}): #{inspect(&1.why)}")
    ])
  end

  # The application stops, after every application that depends on it: whatever is left ends now,
  # in parallel and under one deadline.
  @impl true
  def terminate(_reason, state) do
    living = for row <- Workers.all(), row.tree != :gone, do: held(row, state.run)
    {lasting, rows} = Enum.split_with(living, &lasts?/1)
    fds = for %{shim_fd: fd, number: number} <- rows, fd != nil, do: {number, fd}

    longest = rows |> Enum.map(&patience(&1, :ladder)) |> Enum.max(fn -> 0 end)
    bound = min(longest, state.run.config.stop_timeout)

    Enum.each(rows, fn row ->
      if row.tree == :alive and row.shim_fd != nil,
        do: tell_shim(row.number, row.shim_fd, :ladder)
    end)

    waiting = for {number, fd} <- fds, monitored?(number, fd), into: %{}, do: {number, fd}

    _stuck =
      waiting
      |> await_shims(bound)
      |> signal_all(:kill)
      |> await_shims(@stuck_ms)
      |> signal_all(:sigkill)
      |> await_shims(@stuck_ms)

    # Unseen shims, dead shims and their orphans: everything of this run that still carries a tag.
    lasting_numbers = for %{number: number} <- lasting, do: number
    numbers = for(%{number: number} <- Workers.all(), do: number) -- lasting_numbers
    gone? = numbers == [] or verified?(state.run, numbers)
    # The record stays as long as something of the run does.
    gone? = gone? and not Enum.any?(lasting, &(&1.outlives == :own))
    :persistent_term.put({__MODULE__, :all_gone?}, gone?)
  end

  # What outlives this run on purpose, and nobody has begun to end.
  defp lasts?(%{outlives: nil}), do: false
  defp lasts?(%{outlives: :own, tree: :ending}), do: false
  defp lasts?(%{outlives: :own, shim_fd: nil}), do: false
  defp lasts?(%{outlives: :own, shim_fd: fd}), do: Native.pidfd_ended?(fd) == false
  defp lasts?(_of_another_run), do: true

  defp monitored?(number, fd), do: Native.pidfd_monitor(fd, {:shim_ended, number}) == :ok

  defp signal_all(waiting, how) do
    Enum.each(waiting, fn {_number, fd} -> signal_shim(fd, how) end)
    waiting
  end

  defp await_shims(waiting, ms),
    do: await_until(waiting, System.monotonic_time(:millisecond) + ms)

  defp await_until(waiting, _deadline) when map_size(waiting) == 0, do: waiting

  defp await_until(waiting, deadline) do
    receive do
      {:shim_ended, number} -> waiting |> Map.delete(number) |> await_until(deadline)
    after
      max(0, deadline - System.monotonic_time(:millisecond)) -> waiting
    end
  end

  defp verified?(run, numbers) do
    case Hunt.run(Hunt.of_workers(run, numbers)) do
      {:ok, %{survivors: []} = report} ->
        # Those whom `/proc` hides are no reason to keep the record: every shim has ended, which says that its tree has.
        report.complete or report.incomplete_because == [:hidepid]

      {:ok, %{survivors: survivors}} ->
        log_survivors(survivors)
        false

      {:error, _reason} ->
        false
    end
  end

  @doc "Whether the last stop proved that nothing of the run is left; asked once."
  @spec all_gone?() :: boolean()
  def all_gone? do
    gone? = :persistent_term.get({__MODULE__, :all_gone?}, false)
    _ = :persistent_term.erase({__MODULE__, :all_gone?})
    gone?
  end
end
