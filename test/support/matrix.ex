defmodule Leash.Test.Matrix do
  @moduledoc """
  The fault matrix, a column at a time: a second VM with one worker of each shape, and one way to
  end it. It counts what is left of each tree from outside, by identity and by a carrier of its
  own.

      use Leash.Test.Matrix, path: "the VM gets SIGKILL", mode: :worker, act: :vm_killed
  """

  alias Leash.Test.{Carrier, Decoy, Decoys, Observer, Python, VM}

  # The time before SIGKILL in a ladder, and the time that the whole end may take beyond that.
  @grace 300
  @bound 3_000

  @doc "Returns the shapes: the name that a test uses, and the program."
  @spec shapes() :: [{String.t(), atom()}]
  def shapes do
    [
      {"a plain process", :plain},
      {"a shell with two children", :shell},
      {"a process that ignores SIGTERM", :ignores_term},
      {"a child in a session of its own", :setsid_child},
      {"a double-forked daemon", :daemon},
      {"an env -i child with setsid", :env_i},
      {"processes that stopped themselves", :stopped},
      {"processes that fork on and on", :forks},
      {"a child that ignores SIGTERM and whose leader dies of it", :leader_dies_first},
      {"a process with 300 kB of unread stdin", :never_reads},
      {"processes that overwrote argv and environ", :overwritten}
    ]
  end

  @doc """
  Returns the paths: the name that a test uses, the mode of the programs, and this module's
  function for the path.
  """
  @spec paths() :: [{module(), String.t(), atom(), atom()}]
  def paths do
    [
      {Stop, "stop", :worker, :stopped},
      {StopAll, "stop_all", :worker, :all_stopped},
      {OwnerExits, "the owner exits", :worker, :owner_exits},
      {OwnerKilled, "the owner is killed", :worker, :owner_killed},
      {WorkerKilled, "the Worker is brutally killed", :worker, :worker_killed},
      {VmTerm, "the VM gets SIGTERM", :worker, :vm_terminated},
      {VmKill, "the VM gets SIGKILL", :worker, :vm_killed},
      {Halt, "System.halt", :worker, :halted},
      {ShimKill, "the shims get SIGKILL", :worker, :shims_killed},
      {VmAndShimKill, "VM and shims get SIGKILL", :worker, :vm_and_shims_killed},
      {WardenKill, "the warden gets SIGKILL, and VM and shims when there is another", :worker,
       :warden_killed_first},
      {AllKill, "VM, warden and shims get SIGKILL and a new VM starts", :worker, :all_killed},
      {PtyStop, "pty: stop", :pty, :stopped},
      {PtyOwnerKilled, "pty: the owner is killed", :pty, :owner_killed},
      {PtyVmKill, "pty: the VM gets SIGKILL", :pty, :vm_killed},
      {PtyShimKill, "pty: the shims get SIGKILL", :pty, :shims_killed},
      {PtyVmAndShimKill, "pty: VM and shims get SIGKILL", :pty, :vm_and_shims_killed},
      {PtyAllKill, "pty: VM, warden and shims get SIGKILL and a new VM starts", :pty,
       :all_killed},
      {CmdCallerKilled, "cmd: the caller is killed", :cmd, :owner_killed},
      {CmdCollectorRaises, "cmd: the Collectable raises", :cmd, :owner_raises},
      {CmdStopAll, "cmd: stop_all", :cmd, :all_stopped},
      {CmdHalt, "cmd: System.halt", :cmd, :halted},
      {CmdVmKill, "cmd: the VM gets SIGKILL", :cmd, :vm_killed},
      {CmdShimKill, "cmd: the shims get SIGKILL", :cmd, :shims_killed_going_on},
      {CmdVmAndShimKill, "cmd: VM and shims get SIGKILL", :cmd, :vm_and_shims_killed},
      {CmdAllKill, "cmd: VM, warden and shims get SIGKILL and a new VM starts", :cmd,
       :all_killed},
      {StreamHalts, "stream: the consumer halts", :stream, :owner_halts},
      {StreamRaises, "stream: the consumer raises", :stream, :owner_raises},
      {StreamKilled, "stream: the consumer is killed", :stream, :owner_killed},
      {StreamHalt, "stream: System.halt", :stream, :halted},
      {StreamVmKill, "stream: the VM gets SIGKILL", :stream, :vm_killed},
      {StreamShimKill, "stream: the shims get SIGKILL", :stream, :shims_killed},
      {StreamVmAndShimKill, "stream: VM and shims get SIGKILL", :stream, :vm_and_shims_killed},
      {PortClose, "open_port: Port.close", :open_port, :stopped},
      {PortStopAll, "open_port: stop_all", :open_port, :all_stopped},
      {PortOwnerExits, "open_port: the owner exits", :open_port, :owner_exits},
      {PortOwnerKilled, "open_port: the owner is killed", :open_port, :owner_killed},
      {PortHalt, "open_port: System.halt, nothing queued", :open_port, :halted},
      {PortVmTerm, "open_port: the VM gets SIGTERM", :open_port, :vm_terminated},
      {PortVmKill, "open_port: the VM gets SIGKILL", :open_port, :vm_killed},
      {PortShimKill, "open_port: the shims get SIGKILL", :open_port, :shims_killed},
      {PortVmAndShimKill, "open_port: VM and shims get SIGKILL", :open_port,
       :vm_and_shims_killed},
      {PortAllKill, "open_port: VM, warden and shims get SIGKILL and a new VM starts", :open_port,
       :all_killed},
      {DetachStop, "detach: stop", :detach, :stopped},
      {DetachStopAll, "detach: the Workers are killed, and stop_all", :detach, :left_and_stopped},
      {DetachShimKill, "detach: the shims get SIGKILL", :detach, :shims_killed},
      {DetachAdopt, "detach: the VM gets SIGKILL, a new VM adopts and stops", :detach, :adopted},
      {AttachStop, "attach: stop", :attach, :stopped},
      {AttachStopAll, "attach: stop_all", :attach, :all_stopped},
      {AttachOwnerExits, "attach: the owner exits", :attach, :owner_exits},
      {AttachOwnerKilled, "attach: the owner is killed", :attach, :owner_killed},
      {AttachVmTerm, "attach: the VM gets SIGTERM", :attach, :vm_terminated},
      {AttachVmKill, "attach: the VM gets SIGKILL", :attach, :vm_killed},
      {AttachShimKill, "attach: the shims get SIGKILL", :attach, :shims_killed},
      {AttachVmAndShimKill, "attach: VM and shims get SIGKILL", :attach, :vm_and_shims_killed},
      {AttachAllKill, "attach: VM, warden and shims get SIGKILL and a new VM starts", :attach,
       :all_killed}
    ]
  end

  defmacro __using__(options) do
    quote bind_quoted: [path: options[:path], mode: options[:mode], act: options[:act]] do
      # Two cores carry one VM with a dozen trees at a time.
      use ExUnit.Case, async: false

      @moduletag :matrix
      @moduletag timeout: 120_000
      @mode mode
      @act act

      setup_all do
        {:ok, Leash.Test.Matrix.run(@mode, @act)}
      end

      for {shape, key} <- Leash.Test.Matrix.shapes() do
        @key key
        test "#{path}: nothing is left of #{shape}", %{cells: cells} do
          cell = Map.fetch!(cells, @key)
          assert cell.before != [], "the tree never lived"
          assert cell.left == []
          assert is_integer(cell.took)
        end
      end

      test "#{path}: no shim is left, and every decoy lives unsignalled", context do
        assert context.shims_left == []
        assert context.harmed == []
      end

      if act == :adopted do
        test "#{path}: the sweep of the new VM left all of them", context do
          assert context.kept != %{}
          for {shape, kept?} <- context.kept, do: assert({shape, kept?} == {shape, true})
        end
      end

      if act in [:vm_and_shims_killed, :warden_killed_first] do
        test "#{path}: within 2 seconds", %{cells: cells} do
          for {key, cell} <- cells, do: assert({key, cell.took < 2_000} == {key, true})
        end
      end

      if act == :all_killed do
        test "#{path}: it was the sweep that ended them", context do
          # PDEATHSIG ends the leaders, so their descendants lived on.
          assert context.orphans > 4
        end
      end
    end
  end

  @doc "Runs one column. With `mode` `:bare` it runs without the library, and so without decoys."
  @spec run(atom(), atom(), keyword()) :: map()
  def run(mode, act, options \\ []) do
    decoys = if mode != :bare, do: Decoys.all(), else: []
    vm_carrier = Carrier.new()
    carriers = Map.new(shapes(), fn {_name, key} -> {key, Carrier.new(vm_carrier)} end)
    workers = for {_name, key} <- shapes(), do: {to_string(key), worker(key, carriers[key], mode)}
    booting = VM.boot(Decoys.run_dir(), workers, carrier: vm_carrier, mode: mode)

    try do
      vm = VM.await(booting)
      settle(vm, flood?(mode, act))
      before = Map.new(carriers, fn {key, carrier} -> {key, Carrier.members(carrier)} end)
      own = if vm.run_id, do: own_decoys(vm, act), else: []
      if mode != :bare, do: Decoys.lose_records()
      column = take(act, vm, carriers, before, options[:bound] || @bound + @grace)
      harmed = Decoys.harmed(decoys ++ own ++ Map.get(column, :reused, []))
      Enum.each(own ++ Map.get(column, :reused, []), &Decoy.stop/1)
      if mode != :bare, do: note({mode, act}, column.cells)
      Map.merge(column, %{harmed: harmed, vm: vm})
    after
      Enum.each(carriers, fn {_key, carrier} -> Carrier.clear(carrier) end)
      VM.stop(booting)
    end
  end

  # One living witness is enough to keep a run (fixed by design). A process that names a living
  # owner would rightly make the sweep keep the run that it has to end here.
  defp own_decoys(vm, :all_killed), do: Decoys.of_run(vm.run_id)
  defp own_decoys(vm, _act), do: [Decoys.same_tag(vm.run_id) | Decoys.of_run(vm.run_id)]

  # System.halt/1 waits for the queues of all ports, those of open_port/3 included.
  # A tree that outlives its VM has an empty stdin.
  defp flood?(:detach, _act), do: false
  defp flood?(mode, act), do: {mode, act} != {:open_port, :halted}

  # Waits until each tree has its shape: one is stopped, and one has a full stdin.
  defp settle(vm, flood?) do
    if flood?, do: "flood" = VM.ask(vm, "flood never_reads")

    waiting = fn ->
      Enum.all?(vm.trees["stopped"], fn {pid, _ticks} -> Observer.state(pid) == "T" end)
    end

    true = Observer.eventually(5_000, waiting) != nil
  end

  defp worker(key, carrier, mode) do
    body =
      case key do
        :shell -> "sleep 90 & a=$!; sleep 90 & echo ready $$ $a $!; wait"
        key -> "exec " <> Python.quote_all(Python.argv("shapes.py", [to_string(key)]))
      end

    [
      command: "sh",
      # An attached program takes its shape afterwards.
      args: [
        "-c",
        Carrier.enter(carrier) <> if(mode == :attach, do: "read go; ", else: "") <> body
      ],
      stop: [sigterm: @grace],
      stdin: if(key == :never_reads, do: :pipe, else: :null)
    ]
  end

  defp take(act, vm, carriers, before, bound) do
    shims = VM.shims(vm)
    wardens = VM.wardens(vm)
    {began, extra} = act(act, vm, carriers)
    known = Map.new(before, fn {key, members} -> {key, members ++ (vm.trees["#{key}"] || [])} end)
    times = watch(carriers, known, began, began + bound, %{})

    cells =
      Map.new(carriers, fn {key, carrier} ->
        left = left(carrier, known[key])
        took = if left == [], do: times[key]
        {key, %{before: before[key], left: Enum.map(left, &Observer.describe/1), took: took}}
      end)

    # The warden ends last.
    shims = if vm_ends?(act), do: Enum.uniq(shims ++ wardens ++ VM.wardens(vm)), else: shims
    gone = fn -> not Enum.any?(shims, &Observer.alive?/1) end
    Observer.eventually(max(began + bound - now(), 0), gone)

    shims_left = shims |> Enum.filter(&Observer.alive?/1) |> Enum.map(&Observer.describe/1)
    finish(extra)

    extra
    |> Map.take([:reused, :orphans, :kept])
    |> Map.merge(%{cells: cells, shims_left: shims_left})
  end

  defp vm_ends?(act),
    do:
      act in [
        :vm_terminated,
        :vm_killed,
        :halted,
        :vm_and_shims_killed,
        :warden_killed_first,
        :all_killed
      ]

  # By the carrier and by identity: each of them could miss a process that the other sees.
  defp left(carrier, known),
    do: Enum.uniq(Carrier.members(carrier) ++ Enum.filter(known, &Observer.alive?/1))

  defp watch(carriers, known, began, deadline, times) do
    waiting = Map.drop(carriers, Map.keys(times))

    times =
      for {key, carrier} <- waiting, left(carrier, known[key]) == [], into: times do
        {key, now() - began}
      end

    if map_size(times) == map_size(carriers) or now() >= deadline do
      times
    else
      receive do
      after
        2 -> watch(carriers, known, began, deadline, times)
      end
    end
  end

  defp now, do: System.monotonic_time(:millisecond)

  ## The paths

  @commands %{
    stopped: "stop",
    all_stopped: "stop_all",
    owner_exits: "owner_exits",
    owner_killed: "owner_killed",
    owner_raises: "owner_raises",
    owner_halts: "owner_halts",
    worker_killed: "worker_killed",
    halted: "halt"
  }

  defp act(:vm_terminated, vm, _carriers), do: timed(fn -> VM.signal(vm, "TERM") end)
  defp act(:vm_killed, vm, _carriers), do: timed(fn -> VM.signal(vm, "KILL") end)

  defp act(:shims_killed, vm, _carriers),
    do: timed(fn -> vm |> VM.shims() |> Observer.signal_all("KILL") end)

  # The owner is in its Collectable until then, and sees the shims' end when it comes back.
  defp act(:shims_killed_going_on, vm, carriers) do
    VM.command(vm, "owner_goes_on")
    act(:shims_killed, vm, carriers)
  end

  # The warden is left, and nothing starts anew. All are stopped first, so that no shim can act on
  # the VM's end.
  defp act(:vm_and_shims_killed, vm, _carriers) do
    everybody = [vm.identity | VM.shims(vm)]
    Observer.signal_all(everybody, "STOP")
    timed(fn -> Observer.signal_all(everybody, "KILL") end)
  end

  defp act(:warden_killed_first, vm, carriers) do
    [first] = VM.wardens(vm)
    Observer.signal(first, "KILL")
    # The number of the new warden is known before the warden is at its post.
    at_post? = "Leash.capabilities().warden == :ok"

    another? = fn ->
      match?([other] when other != first, VM.wardens(vm)) and VM.eval(vm, at_post?)
    end

    true = Observer.eventually(10_000, another?) != nil
    act(:vm_and_shims_killed, vm, carriers)
  end

  # Only the next start can end the trees. Meanwhile foreign processes have got the numbers of the
  # run's VM, of a shim and of a worker.
  defp act(:all_killed, vm, carriers) do
    Observer.kill_together(VM.supervision(vm))
    reused = if Decoys.root?(), do: reuse(vm), else: []
    orphans = Enum.flat_map(carriers, fn {_key, carrier} -> Carrier.members(carrier) end)
    {began, _} = timed(fn -> :ok end)
    # The grace that the shims would have given.
    next = VM.boot(Decoys.run_dir(), [], env: [sweep: [stop: [sigterm: @grace]]])
    {began, %{orphans: length(orphans), reused: reused, next: next}}
  end

  defp act(:left_and_stopped, vm, _carriers) do
    VM.command(vm, "worker_killed")
    held? = "Enum.any?(Leash.list(), &Process.alive?(&1.pid))"
    true = Observer.eventually(5_000, fn -> not VM.eval(vm, held?) end) != nil
    timed(fn -> VM.command(vm, "stop_all") end)
  end

  defp act(:adopted, vm, carriers) do
    VM.signal(vm, "KILL")
    true = Observer.eventually(5_000, fn -> not Observer.alive?(vm.identity) end) != nil
    next = VM.start(Decoys.run_dir(), [])

    kept =
      Map.new(carriers, fn {key, carrier} ->
        {key, Carrier.members(carrier) != [] and Observer.alive?(vm.workers["#{key}"].os)}
      end)

    code = """
    for %{run_id: #{inspect(vm.run_id)}, name: name} <- Leash.Worker.detached() do
      spawn(fn ->
        {:ok, worker} = Leash.Worker.adopt(name)
        {:ok, %Leash.Exit{}} = Leash.Worker.stop(worker)
      end)
    end
    """

    {began, _} = timed(fn -> VM.command(next, "eval " <> Base.encode64(code)) end)
    {began, %{kept: kept, adopter: next}}
  end

  defp act(act, vm, _carriers), do: timed(fn -> VM.command(vm, Map.fetch!(@commands, act)) end)

  defp timed(fun) do
    began = now()
    fun.()
    {began, %{}}
  end

  defp reuse(vm) do
    for {title, {pid, _ticks} = identity} <- [
          {"a process with the pid of the dead VM", vm.identity},
          {"a process with the pid of a dead shim", vm.workers["plain"].shim},
          {"a process with the pid of a dead worker", vm.workers["plain"].os}
        ],
        # An attached program does not die with its shim.
        not Observer.alive?(identity),
        do: Decoy.start(title, pid: pid)
  end

  defp finish(%{next: next}), do: next |> VM.await() |> VM.stop()
  defp finish(%{adopter: vm}), do: VM.stop(vm)
  defp finish(_nobody), do: :ok

  ## The summary

  @key {__MODULE__, :summary}

  defp note(column, cells),
    do: :persistent_term.put(@key, [{column, cells} | :persistent_term.get(@key, [])])

  @doc "Returns the usual times as a table, or `nil` if no column ran."
  @spec summary() :: String.t() | nil
  def summary do
    noted = Map.new(:persistent_term.get(@key, []))

    rows =
      for {_module, path, mode, act} <- paths(), cells = noted[{mode, act}] do
        times = for {_key, %{took: ms}} <- cells, ms != nil, do: ms
        gone = "#{length(times)}/#{map_size(cells)}"
        [path, gone, median(times), Enum.max(times, fn -> "-" end)]
      end

    if rows != [] do
      table = for row <- [["path", "gone", "median ms", "max ms"] | rows], do: line(row)

      "\nFault matrix, cells with no survivor and when the last process was gone:\n" <>
        Enum.join(table)
    end
  end

  defp median([]), do: "-"
  defp median(times), do: times |> Enum.sort() |> Enum.at(div(length(times), 2))

  defp line([path, gone, median, max]) do
    "  #{String.pad_trailing(path, 56)} #{pad(gone)} #{pad(median)} #{pad(max)}\n"
  end

  defp pad(value), do: value |> to_string() |> String.pad_leading(9)
end
