defmodule Leash.Test.NativeTerms do
  @moduledoc """
  Calls the native functions with random terms, and with terms that are nearly right.

  It has to run in a VM of its own inside a pid namespace, because a random number can be a real
  pid. `sacrifices` are the processes that may be hit, with number and start. Of the others,
  decoys and the VM, it gets only the numbers.
  """

  alias Leash.Native
  alias Leash.Test.{Decoy, FarEnds, Observer}
  alias Leash.Test.NativeTerms.Any

  # The parameters of each function. A function that is missing here fails the run.
  @functions [
    warden_listen: [],
    warden_accept: [:fd, :pid],
    warden_word: [:fd],
    shim_start: [:fd, :texts, :environment, :ends],
    channel_read: [:fd],
    channel_ask: [:fd, :how],
    channel_signal: [:fd, :signo, :worker],
    terminal_resize: [:fd, :worker, :worker],
    terminal_info: [:fd],
    terminal_eof: [:fd],
    variable: [:text],
    fd_read: [:fd, :size],
    fd_write: [:fd, :iodata],
    fd_close: [:fd],
    fd_give: [:fd, :process],
    fd_dup: [:fd],
    shim_open: [:pid, :run, :worker],
    pidfd_signal: [:fd, :signo],
    pidfd_monitor: [:fd, :any],
    pidfd_demonitor: [:fd],
    pidfd_ended?: [:fd],
    process_identify: [:pid],
    process_open: [:identity],
    process_alive: [:identity],
    process_refusal: [:pid],
    process_info: [:identity],
    process_children: [:identity],
    run_id_generate: [],
    owner_tag_base: [],
    owner_option: [],
    boot_id: [],
    run_open: [:dir, :about],
    run_create: [:dir, :run, :about],
    run_ensure: [:lock],
    run_append_command: [:lock, :worker, :text, :texts],
    run_append_attachment: [:lock, :worker, :pid, :ticks],
    run_append_unmarked: [:lock, :worker],
    run_append_groups: [:lock, :text],
    run_append_name: [:lock, :worker, :text, :text],
    run_forget: [:lock, :workers],
    run_close: [:lock, :boolean],
    attach_option: [:identity],
    not_covered: [:pid, :run, :worker],
    executable: [:path],
    hunt_new: [:spec],
    hunt_step: [:hunt],
    detached: [],
    detached_open: [:identity, :run, :worker],
    census: [:run, :members, :size],
    cgroup_place: [:dir],
    cgroup_make: [:dir, :cgroup, :cgroup_limits],
    cgroup_usage: [:dir],
    cgroup_remove: [:cgroup_path, :boolean],
    capabilities: [:dir],
    euid: []
  ]

  # Not called: they are about the library itself, or crash on purpose.
  @elixir [close: 1, await_end: 2, monitor_end: 2]
  @others [load: 0, native_panic: 0, __info__: 1, module_info: 0, module_info: 1] ++ @elixir

  @more_ms 30_000

  # The number of resources that are held at once.
  @held 40

  @doc "Returns the functions that this module does not know. None are expected."
  @spec unknown() :: [{atom(), arity()}]
  def unknown do
    known = for {name, parameters} <- @functions, do: {name, arity(parameters)}
    Native.module_info(:exports) -- (known ++ @others)
  end

  defp arity(parameters),
    do: Enum.sum(Enum.map(parameters, &if(&1 == :identity, do: 3, else: 1)))

  @doc """
  Calls all of them in turn for so many milliseconds, in a directory of its own.

  It writes each call into `last` before the call, so that the file is there even if the VM
  crashes.
  """
  @spec run(integer(), non_neg_integer(), Path.t(), Path.t()) :: map()
  def run(seed, ms, dir, last) do
    File.cd!(dir)
    Process.flag(:trap_exit, true)
    {:ok, worker} = Leash.Worker.start_link(command: "sleep", args: ["600"], stop: [sigterm: 300])

    decoys = [
      Decoy.start("a bystander"),
      Decoy.start("one who has a run's id in his arguments", argv: ["--run-id=s59m65f"])
    ]

    pipes = pipes()
    sacrifices = sacrifices()
    %{os_pid: os_pid, shim_pid: shim_pid} = Leash.Worker.info(worker)
    worker_trees = Enum.map([os_pid, shim_pid], &Observer.identity/1)
    bystanders = Enum.map(decoys, & &1.identity) ++ worker_trees
    others = distinct!(sacrifices, bystanders)
    before = {descriptors(), ports()}
    living = Observer.all()

    known = %{pids: others, sacrifices: Enum.map(sacrifices, &whole/1), dir: dir}
    # A process of its own, which takes all unclosed resources with it when it ends.
    state = Task.await(Task.async(fn -> calls(seed, ms, known, pipes, last) end), :infinity)

    left =
      Observer.eventually(5_000, fn ->
        {descriptors(), ports()} == before
      end)

    result = %{
      rounds: state.rounds,
      tally: state.tally,
      wrong: state.wrong,
      harmed: for(decoy <- decoys, harm = Decoy.harm(decoy), do: harm),
      ended: for({pid, _} = identity <- worker_trees, not Observer.alive?(identity), do: pid),
      started: Enum.map(Observer.all() -- living, &Observer.describe/1),
      left: if(left, do: nil, else: %{before: before, now: {descriptors(), ports()}})
    }

    # These ends come after the look, and may happen.
    for fd <- pipes, do: Native.fd_close(fd)
    Leash.Worker.stop(worker)
    for {_pid, _ticks} = sacrifice <- sacrifices, do: Observer.signal(sacrifice, "KILL")
    for decoy <- decoys, do: Decoy.stop(decoy)
    result
  end

  defp calls(seed, ms, known, pipes, last) do
    :rand.seed(:exsss, seed)
    Process.flag(:trap_exit, true)
    {:ok, file} = :file.open(last, [:raw, :write, :binary])

    tally =
      Map.new(@functions, fn {name, _parameters} -> {name, %{answer: 0, error: 0, badarg: 0}} end)

    state = %{file: file, known: known, pipes: pipes, pool: [], tally: tally, wrong: []}
    state = rounds(state, System.monotonic_time(:millisecond) + ms, 0)
    :file.close(file)

    %{state | wrong: Enum.map(state.wrong, &inspect(&1, limit: 20, printable_limit: 200))}
    |> Map.take([:rounds, :tally, :wrong])
  end

  # Takes longer if a slow machine has not got past the arguments of some function by then.
  defp rounds(state, until, count) do
    now = System.monotonic_time(:millisecond)

    if now >= until + @more_ms or (now >= until and all_answered?(state)) do
      Map.put(state, :rounds, count)
    else
      @functions |> Enum.reduce(state, &call/2) |> tidy() |> rounds(until, count + 1)
    end
  end

  defp all_answered?(state),
    do: Enum.all?(state.tally, fn {_name, tally} -> tally.answer + tally.error > 0 end)

  defp call({name, parameters}, state) do
    known = Map.put(state.known, :pool, state.pool)
    args = Enum.flat_map(parameters, &Any.argument(&1, known))

    :ok =
      :file.pwrite(
        state.file,
        0,
        inspect({name, args}, limit: 40, printable_limit: 300) <> "\n\n"
      )

    case answer(name, args) do
      {:ok, result} ->
        state
        |> tally(name, if(match?({:error, _}, result), do: :error, else: :answer))
        |> hold(result)

      :badarg ->
        tally(state, name, :badarg)

      {:wrong, kind, reason} ->
        %{state | wrong: [{name, args, kind, reason} | state.wrong]}
    end
  end

  defp answer(name, args) do
    result = apply(Native, name, args)
    # Looks at the term from front to back, whatever it is.
    _size = :erlang.external_size(result)
    {:ok, result}
  rescue
    ArgumentError -> :badarg
    other -> {:wrong, :error, other}
  catch
    kind, reason -> {:wrong, kind, reason}
  end

  defp tally(state, name, what), do: update_in(state.tally[name][what], &(&1 + 1))

  defp hold(state, result) do
    new =
      case result do
        {:ok, reference} when is_reference(reference) -> [reference]
        {:ok, reference, _name} when is_reference(reference) -> [reference]
        {:ok, %{stdin: _} = ends} -> for {_, fd} <- ends, is_reference(fd), do: fd
        _other -> []
      end

    %{state | pool: new ++ state.pool}
  end

  # The calls close some, this function closes some, and garbage collection closes the others.
  defp tidy(state) do
    flush()
    {kept, dropped} = state.pool |> Enum.shuffle() |> Enum.split(@held)
    for fd <- dropped, do: close(fd)
    :erlang.garbage_collect()

    copies =
      if :rand.uniform(4) == 1,
        do: for(fd <- state.pipes, {:ok, copy} <- [Native.fd_dup(fd)], do: copy),
        else: []

    %{state | pool: copies ++ kept}
  end

  defp close(resource) do
    Native.fd_close(resource)
  rescue
    ArgumentError -> :ok
  end

  defp flush do
    receive do
      _any -> flush()
    after
      0 -> :ok
    end
  end

  # The VM's ends of pipes whose other ends belong to a program.
  defp pipes do
    {_program, [ends]} = FarEnds.open("sys.stdin.read()", [[:stdin, :stdout, :stderr]])
    Map.values(ends)
  end

  # Children of a shell, which stays when they end. It waits first: processes that start at the
  # same moment have the same start.
  defp sacrifices do
    line = "sleep 0.2; for each in 1 2 3; do sleep 600 & echo $!; done; echo; exec cat"
    port = Port.open({:spawn_executable, "/bin/sh"}, [:binary, line: 80, args: ["-c", line]])
    port |> pids() |> Enum.map(&Observer.identity/1)
  end

  defp pids(port) do
    receive do
      {^port, {:data, {:eol, ""}}} -> []
      {^port, {:data, {:eol, pid}}} -> [String.to_integer(pid) | pids(port)]
    after
      10_000 -> raise "nobody to be signalled"
    end
  end

  # A number means a process only with its start. Two starts must be far enough apart to tell.
  defp distinct!(sacrifices, bystanders) do
    [vm] = for {pid, _} = identity <- Observer.all(), "#{pid}" == System.pid(), do: identity

    for {_, ticks} <- sacrifices, {pid, other} <- [vm | bystanders], abs(ticks - other) < 3 do
      raise "#{pid} started at the same moment as one who may be signalled"
    end

    [1, elem(vm, 0) | Enum.map(bystanders ++ sacrifices, &elem(&1, 0))]
  end

  defp whole({pid, _ticks}) do
    {:ok, identity} = Native.process_identify(pid)
    identity
  end

  # Compares by target, since numbers are given again. The listing's own descriptor is among them.
  defp descriptors do
    for(
      name <- File.ls!("/proc/self/fd"),
      {:ok, target} <- [:file.read_link("/proc/self/fd/#{name}")],
      do: target |> to_string() |> String.replace(~r/\d+/, "")
    )
    |> Enum.frequencies()
  end

  defp ports, do: length(Port.list())
end
