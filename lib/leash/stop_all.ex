defmodule Leash.StopAll do
  # `Leash.stop_all/2` ends the workers of a group in parallel, under one deadline.
  #
  # A process of its own does it, without a link. So an ending that began goes on to its proof
  # even if its caller is killed (supervisors give their children's shutdown hooks a few seconds).
  # And the caller's mailbox is not in the way.
  #
  #   group closed ──▶ every Worker asked ──▶ answers, or the Reaper says that a number is free
  #                         │ no sign of a beginning: its shim is told directly
  #                         │ deadline: the shims are told to kill
  #                         └ + 1 s: everything with the tags is hunted, stuck shims too. A Worker
  #                                  that is still starting is killed: nothing starts later
  #
  # These count as proof: a Worker's answer (the kernel's proof, or its own hunt), a number that
  # the Reaper has freed, a row that says so. If the Worker does not answer, a hunt of this
  # process does.
  @moduledoc false

  alias Leash.{
    Cleanup,
    Degraded,
    Detached,
    Error,
    Exit,
    Group,
    Native,
    Reaper,
    Registry,
    Run,
    Schema
  }

  alias Leash.Shim.Handle
  alias Leash.Worker.Protocol

  # Until a Worker that has not begun counts as stuck. Beginning is one request, but a thousand
  # Workers do it at once.
  @unanswered_ms 500
  # A Worker reports more of an end than a hunt can, right after its shim has gone.
  @last_word_ms 200
  # How many times that is awaited of a Worker that has begun to end its tree. On a busy machine
  # it needs longer for its report than a hunt does.
  @last_words 5
  # From QUIT until a shim counts as stuck.
  @stuck_ms 1_000
  # Until the shim of a command that is just starting is looked for again.
  @starting_ms 20
  # How long a hunt waits for the end of what it killed. The caller has a deadline, and the Reaper
  # goes on.
  @hunt_ms 1_500

  @schema Schema.new(
            deadline: [
              type: Schema.milliseconds(),
              default: 5_000,
              doc:
                "Milliseconds until everything that is left of all trees gets SIGKILL. The " <>
                  "`:stop` of each may send it earlier. 0 sends it at once."
            ]
          )

  @spec schema() :: Schema.t()
  def schema, do: @schema

  @spec run(Group.t() | :all, keyword()) ::
          {:ok, [Leash.stopped()]} | {:error, [Leash.stopped()]}
  def run(group, options) do
    %{deadline: deadline} = validate!(group, options)
    results = alone(group, deadline, {__MODULE__, :run, [group, options]})
    all_gone? = Enum.all?(results, &match?(%{result: {:ok, _}}, &1))
    {if(all_gone?, do: :ok, else: :error), results}
  end

  @doc """
  Ends one worker, by its number, in the same way. Returns `[]` for a worker that ended before.
  """
  @spec stop(pos_integer(), timeout()) :: [Leash.stopped()]
  def stop(number, deadline), do: alone(number, deadline, {__MODULE__, :stop, [number, deadline]})

  defp alone(which, deadline, call) do
    {pid, monitor} =
      spawn_monitor(fn -> exit({:shutdown, {:stopped, stop_each(which, deadline)}}) end)

    receive do
      {:DOWN, ^monitor, :process, ^pid, {:shutdown, {:stopped, results}}} -> results
      {:DOWN, ^monitor, :process, ^pid, reason} -> exit({reason, call})
    end
  end

  defp validate!(group, options) do
    if group != :all and not Group.valid?(group) do
      Schema.refuse!(:group, ":all, or a group: an atom, a string or a tuple", group)
    end

    Schema.unwrap!(Schema.validate(schema(), options))
  end

  defp stop_each(group, deadline) do
    case Run.fetch() do
      {:ok, run} -> stop_each(run, group, deadline)
      # The application ended everything when it stopped.
      {:error, _no_run} -> if Run.degraded?(), do: Degraded.stop_all(group, deadline), else: []
    end
  end

  defp stop_each(run, group, deadline) do
    began = now()

    state = %{
      run: run,
      group: group,
      how: if(deadline == 0, do: :kill, else: :ladder),
      # number => %{row:, ref: of the question and the monitor, fd: our own pidfd of the shim}
      waiting: %{},
      # ref => number
      refs: %{},
      done: [],
      reaper: nil,
      # Numbers that the hunt under way looks for, and those for the next.
      hunting: nil,
      to_verify: []
    }

    times =
      if deadline != :infinity, do: [deadline: deadline, hunt: deadline + @stuck_ms], else: []

    for {message, ms} <- [{:unanswered, @unanswered_ms} | times],
        do: Process.send_after(self(), {:leash, message}, began + ms, abs: true)

    state = state |> attach() |> loop()
    _ = Reaper.open()
    Enum.sort_by(state.done, & &1.worker)
  end

  defp now, do: System.monotonic_time(:millisecond)

  defp loop(%{waiting: waiting} = state) when map_size(waiting) == 0, do: state

  defp loop(state) do
    receive do
      {ref, answer} when is_map_key(state.refs, ref) ->
        state |> answered(state.refs[ref], answer) |> loop()

      {:DOWN, ref, :process, _pid, _reason} when is_map_key(state.refs, ref) ->
        state |> worker_down(state.refs[ref]) |> loop()

      {:DOWN, monitor, :process, _pid, _reason} when monitor == state.reaper ->
        Reaper.look_again_in_a_while({:leash, :attach})
        loop(%{state | reaper: nil})

      {:DOWN, monitor, :process, _pid, reason} ->
        state |> hunted(monitor, reason) |> loop()

      {free_or_gone, number} when free_or_gone in [:leash_free, :leash_gone] ->
        state |> gone(number) |> loop()

      {:leash_left, numbers, survivors} ->
        numbers
        |> Enum.filter(&orphan?(state, &1))
        |> Enum.reduce(state, &left(&2, &1, of(survivors, &1)))
        |> loop()

      {:leash_shim, number} ->
        state |> await_word(number, @last_words) |> loop()

      {:leash, message} ->
        state |> advance(message) |> loop()

      _stray ->
        loop(state)
    end
  end

  ## Asking

  # Called again after a restart of the Reaper, which may have let a start through or lost the
  # message of an end.
  defp attach(state) do
    closed = Reaper.close(state.group)
    state = Enum.reduce(Registry.living(state.group), state, &ask(&2, &1))
    state = state.waiting |> Map.keys() |> Enum.reduce(state, &if_freed(&2, &1))

    case closed do
      :ok ->
        %{state | reaper: Process.monitor(Reaper)}

      {:error, :not_running} ->
        Reaper.look_again_in_a_while({:leash, :attach})
        state
    end
  end

  defp ask(state, %{number: number}) when is_map_key(state.waiting, number), do: state

  defp ask(state, row) do
    ref = Process.monitor(row.pid)
    state = put_in(state.waiting[row.number], %{row: row, ref: ref, fd: nil})
    state = put_in(state.refs[ref], row.number)
    ask_for_end(row, ref, state)
  end

  # The process of a command is its caller, which may be busy with what it has read.
  defp ask_for_end(%{kind: :command, number: number}, _ref, state),
    do: advance(state, {:tell, number})

  defp ask_for_end(row, ref, state) do
    Protocol.stop(row.pid, {self(), ref}, state.how)
    state
  end

  defp advance(state, :attach), do: attach(state)

  defp advance(state, :unanswered) do
    for {number, %{row: row}} <- state.waiting,
        match?({:ok, %{tree: :alive}}, fetch(state, number)),
        Process.alive?(row.pid),
        reduce: state,
        do: (state -> tell_shim(state, number, state.how))
  end

  defp advance(state, {:tell, number}) when is_map_key(state.waiting, number) do
    state = tell_shim(state, number, state.how)

    _timer =
      if state.waiting[number].fd == nil and unbegun?(state, number),
        do: Process.send_after(self(), {:leash, {:tell, number}}, @starting_ms)

    state
  end

  defp advance(state, {:tell, _done}), do: state

  defp advance(state, :deadline) do
    # Not by the Workers, which may be stuck in the last seconds. They see what their shims
    # report.
    numbers = Map.keys(state.waiting)
    Enum.reduce(numbers, %{state | how: :kill}, &tell_shim(&2, &1, :kill))
  end

  defp advance(state, :hunt), do: verify(state, Map.keys(state.waiting))

  defp advance(state, {:last_word, number, left}) do
    if left > 0 and reports?(state, number),
      do: await_word(state, number, left),
      else: verify(state, [number])
  end

  defp advance(state, {:unbegun, number}) when is_map_key(state.waiting, number) do
    cond do
      not unbegun?(state, number) -> state |> tell_shim(number, :kill) |> verify([number])
      # Port.open/2 is a call in a process that this one must not kill.
      match?(%{kind: :port}, state.waiting[number].row) -> left(state, number, [])
      true -> give_up(state, number, state.waiting[number].row)
    end
  end

  defp advance(state, {:unbegun, _done}), do: state
  defp advance(state, {:unended, number}), do: left(state, number, [])

  # The command's channel closes. A shim that is executed later finds that and starts nothing. The
  # Reaper reports when that is proven.
  defp give_up(state, number, %{kind: :command, cancel: cancel}) do
    send(cancel, {cancel, :cancel})
    Process.send_after(self(), {:leash, {:unended, number}}, @last_word_ms)
    state
  end

  defp give_up(state, _number, row) do
    Process.exit(row.pid, :kill)
    state
  end

  defp await_word(state, number, left) do
    Process.send_after(self(), {:leash, {:last_word, number, left - 1}}, @last_word_ms)
    state
  end

  # The process of a command is its caller, and reports nothing.
  defp reports?(state, number) do
    with %{row: %{kind: kind, pid: pid}} when kind != :command <- state.waiting[number],
         {:ok, %{tree: tree}} when tree != :alive <- fetch(state, number) do
      Process.alive?(pid)
    else
      _gone_or_unbegun -> false
    end
  end

  defp unbegun?(state, number) do
    match?({:ok, %{shim: nil, outlives: nil, tree: :alive}}, fetch(state, number)) and
      Process.alive?(state.waiting[number].row.pid)
  end

  # The descriptors in the table belong to the Worker and the Reaper, which may close them. A
  # descriptor notifies only one process at a time. So this process opens its own.
  defp tell_shim(state, number, how) do
    case hold(state, number) do
      {%{fd: nil}, state} ->
        state

      {%{fd: fd}, state} ->
        _ = Handle.tell(number, fd, how)
        state
    end
  end

  defp hold(state, number) do
    with %{fd: nil} = worker <- state.waiting[number],
         {:ok, fd} <- open_shim(state, number, worker.row.outlives) do
      :ok = Native.await_end(fd, {:leash_shim, number})
      worker = %{worker | fd: fd}
      {worker, put_in(state.waiting[number], worker)}
    else
      # The shim has ended. A living Worker reports it now, or never.
      {:error, ended} when ended in [:esrch, :reused] ->
        send(self(), {:leash_shim, number})
        {state.waiting[number], state}

      # The shim is held already, not started yet, or freed, or nothing can be opened here.
      _other ->
        {state.waiting[number], state}
    end
  end

  defp open_shim(_state, _number, tree) when is_map(tree), do: Detached.open(tree)

  defp open_shim(state, number, outlives) do
    # The row of a tree that outlives its Worker may have passed to another process meanwhile.
    row = if outlives == :own, do: Registry.fetch(number), else: fetch(state, number)

    case row do
      {:ok, %{shim: nil}} -> {:error, :not_started}
      {:ok, %{outlives: now}} when outlives == :own and now != :own -> {:error, :freed}
      {:ok, %{shim: shim}} -> Native.shim_open(shim, state.run.id, number)
      :error -> {:error, :freed}
    end
  end

  ## What came of it

  defp answered(state, number, {:ok, %Exit{}} = result), do: done(state, number, result)
  defp answered(state, number, {:error, %{survivors: list}}), do: left(state, number, list)
  # The worker had no program. Its end, which follows, decides.
  defp answered(state, _number, _nothing), do: state

  defp worker_down(state, number) do
    case {state.waiting[number].row.outlives, fetch(state, number)} do
      {nil, _row} -> if_freed(state, number)
      {_outlives, {:ok, %{tree: :gone}}} -> gone(state, number)
      # The Reaper frees a number of this run only with proof.
      {:own, :error} -> if_freed(state, number)
      # The Worker has left its detached tree, so no other process ends it.
      _left -> tell_shim(state, number, state.how)
    end
  end

  # Otherwise the Reaper ends what a Worker without an answer left.
  defp if_freed(state, number) do
    of_another_run? = is_map(state.waiting[number].row.outlives)

    case fetch(state, number) do
      {:ok, %{tree: tree}} when tree != :gone -> state
      # The row of a tree of another run is deleted with its process, and not with the tree.
      :error when of_another_run? -> state
      _gone -> freed(state, number)
    end
  end

  defp freed(state, number) do
    cond do
      # Its answer follows: a Worker reads what is left of the output first.
      reports?(state, number) -> await_word(state, number, @last_words)
      Registry.exist?() -> gone(state, number)
      # If the whole table ended with the application, a missing row proves nothing.
      true -> verify(state, [number])
    end
  end

  # Returns the row of that very worker, by its Worker process, because numbers are used again.
  defp fetch(state, number) do
    with {:ok, row} <- Registry.fetch(number) do
      if row.pid == state.waiting[number].row.pid, do: {:ok, row}, else: :error
    end
  end

  defp orphan?(state, number) do
    case state.waiting do
      %{^number => %{row: row}} -> not Process.alive?(row.pid)
      _other -> false
    end
  end

  # The answer may be here already.
  defp gone(state, number) do
    ref = state.waiting[number][:ref]

    receive do
      {^ref, {:ok, %Exit{}} = result} -> done(state, number, result)
    after
      0 -> done(state, number, {:ok, :gone})
    end
  end

  defp left(state, number, list),
    do: done(state, number, {:error, %Error{reason: :survivors, survivors: list}})

  defp done(state, number, result) do
    case Map.pop(state.waiting, number) do
      {nil, _waiting} ->
        state

      {%{row: row, ref: ref, fd: fd}, waiting} ->
        Process.demonitor(ref, [:flush])
        _ = fd && Native.fd_close(fd)

        stopped = %{
          worker: number,
          pid: row.pid,
          label: row.label,
          group: row.group,
          os_pid: row.os_pid,
          result: result
        }

        %{
          state
          | waiting: waiting,
            refs: Map.delete(state.refs, ref),
            done: [stopped | state.done]
        }
    end
  end

  ## Looking

  defp verify(state, numbers), do: hunt(%{state | to_verify: numbers ++ state.to_verify})

  # One hunt at a time covers all numbers that came up meanwhile.
  defp hunt(%{hunting: nil} = state) do
    case state.to_verify |> Enum.uniq() |> Enum.filter(&is_map_key(state.waiting, &1)) do
      [] ->
        %{state | to_verify: []}

      numbers ->
        {batch, spec} = batch(state, numbers)

        # The callers have a deadline, and the warden may be what hangs. The Reaper asks for its
        # word.
        {_pid, monitor} = Cleanup.start(Map.put(spec, :deadline, @hunt_ms), :unknown)
        %{state | hunting: {monitor, batch}, to_verify: numbers -- batch}
    end
  end

  defp hunt(state), do: state

  # Trees of other runs are looked for one by one.
  defp batch(state, numbers) do
    case Enum.reject(numbers, &is_map(state.waiting[&1].row.outlives)) do
      [] -> {[hd(numbers)], Cleanup.of_tree(state.run, state.waiting[hd(numbers)].row.outlives)}
      own -> {own, Cleanup.of_workers(state.run, own)}
    end
  end

  defp hunted(%{hunting: {monitor, numbers}} = state, monitor, reason) do
    numbers
    |> Enum.reduce(%{state | hunting: nil}, &found(&2, &1, reason))
    |> hunt()
  end

  defp hunted(state, _monitor, _reason), do: state

  defp found(state, number, {:shutdown, {:ok, %{survivors: survivors, complete: complete?}}}) do
    case of(survivors, tagged(state, number)) do
      [] when complete? -> proven(state, number)
      # The hunt found none, but could not look at all processes.
      survivors -> left(state, number, survivors)
    end
  end

  defp found(state, number, _failed), do: left(state, number, [])

  # If no process has its tag, a tree that has begun is proven gone. If there was no shim yet, a
  # start may be under way.
  defp proven(state, number) do
    if unbegun?(state, number) do
      Process.send_after(self(), {:leash, {:unbegun, number}}, @last_word_ms)
      state
    else
      gone(state, number)
    end
  end

  defp tagged(state, number) do
    case state.waiting do
      %{^number => %{row: %{outlives: %{worker: theirs}}}} -> theirs
      _own -> number
    end
  end

  # A survivor without a known worker may belong to any number.
  defp of(survivors, number), do: Enum.filter(survivors, &(&1.worker in [number, nil]))
end
