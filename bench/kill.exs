defmodule Bench.Kill do
  # Ends 1,000 processes whose VM and shim were killed, by a sweep and by `kill -9` of their
  # numbers. The time ends when the kernel reports the last one gone.
  @moduledoc false

  alias Bench.{Alone, Muster, Row, Stats}
  alias Leash.OSProcess

  @many 1_000
  @rounds 9

  def rows do
    many = Stats.rounds(@many)

    samples =
      [sweep: &sweep/2, kill: &kill/2, stop: &stop/2]
      |> Enum.map(fn {name, how} -> {name, fn -> Alone.run!(fn -> sample(how, many) end) end} end)
      |> Stats.interleave(Stats.rounds(@rounds))

    gone = fn name -> Stats.median(Enum.map(samples[name], &elem(&1, 0))) / 1_000 end
    proven = Stats.median(Enum.map(samples.sweep, &elem(&1, 1))) / 1_000

    [
      %Row{
        key: :kill,
        what: "kill of a tree of #{many} by a sweep, until all are gone",
        unit: "ms",
        ours: gone.(:sweep),
        beside: [
          {"`kill -9` of the same", gone.(:kill)},
          {"`Leash.Worker.stop(worker, kill: true)`", gone.(:stop)}
        ],
        note: "#{Row.digits(proven)} until it has proved it",
        aims: [{:ratio, 2.0}]
      }
    ]
  end

  # A tree under a shim, as it is after the VM was killed together with its shims.
  defp sample(how, many) do
    muster = Muster.open(many)
    times = how.(muster, many)
    Muster.close(muster)
    times
  end

  defp sweep(muster, many) do
    run = Leash.RunId.generate()
    leave(muster, many, run, owner_tag(run))

    timed(muster, fn ->
      {:ok, report} = Leash.sweep(stop: [])
      ^many = Enum.count(report.matches, &(&1.run_id == run and &1.action == :ended))
    end)
  end

  # The same tree in a run whose owner lives, so that no sweep ends it.
  defp kill(muster, many) do
    run = Leash.RunId.generate()
    pids = leave(muster, many, run, nil)
    kill = System.find_executable("kill")
    timed(muster, fn -> {"", 0} = System.cmd(kill, ["-9" | Enum.map(pids, &"#{&1}")]) end)
  end

  # Ends the tree by its shim, which lives.
  defp stop(muster, many) do
    Process.flag(:trap_exit, true)
    {program, args} = Muster.tree(muster, many)
    {:ok, worker} = Leash.Worker.start_link(command: program, args: args)
    Muster.up(muster)
    timed(muster, fn -> {:ok, _exit} = Leash.Worker.stop(worker, kill: true) end)
  end

  # The time until all are gone, and the time until the call returned.
  defp timed(muster, function) do
    began = System.monotonic_time(:nanosecond)
    test = self()
    # A process of its own receives the end, so that it is not busy then.
    spawn_link(fn -> send(test, {:returned, Stats.time(function)}) end)
    Muster.await_gone(muster)
    gone = (System.monotonic_time(:nanosecond) - began) / 1_000
    receive do: ({:returned, took} -> {gone, took})
  end

  defp leave(muster, many, run, tag) do
    {program, args} = Muster.tree(muster, many)
    options = ["--run-id=#{run}", "--worker=1", "--stdin=null", "--stdout=null", "--stderr=null"]

    port =
      Port.open({:spawn_executable, Leash.Shim.path()}, [
        :exit_status,
        args: options ++ ["--", program | args],
        env: [{~c"LEASH_RUN", if(tag, do: String.to_charlist(tag), else: false)}]
      ])

    {:os_pid, shim} = Port.info(port, :os_pid)
    Muster.up(muster)
    {:ok, [leader]} = OSProcess.children(shim)
    {:ok, members} = OSProcess.children(leader)
    ^many = length(members)
    {:ok, handle} = OSProcess.identify(shim)
    monitor = OSProcess.monitor(leader)
    :ok = OSProcess.signal(handle, :sigkill)
    # The kernel kills the leader with its shim.
    receive do: ({:DOWN, ^monitor, :os_process, _process, _why} -> :ok)
    receive do: ({^port, {:exit_status, _status}} -> :ok)
    Enum.map(members, & &1.pid)
  end

  # Names a process that has ended: no process has this number with this start.
  defp owner_tag(run) do
    {:ok, own} = OSProcess.identify(String.to_integer(System.pid()))
    {pid, 0} = System.cmd("sh", ["-c", "echo $$"])
    %{inode: pid_ns} = File.stat!("/proc/self/ns/pid")
    boot = "/proc/sys/kernel/random/boot_id" |> File.read!() |> binary_part(0, 8)
    "#{run}.1.#{String.trim(pid)}.#{max(own.start_ticks - 1, 1)}.#{pid_ns}.#{boot}"
  end
end
