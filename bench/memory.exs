defmodule Bench.Memory do
  # The memory that an idle worker needs beside itself. Each library starts a program for it. Two
  # other programs that do part of the work are measured, too.
  @moduledoc false

  alias Bench.{Alone, Muster, Peers, Row, Stats}

  @many 20

  def rows do
    ours = Alone.run!(fn -> measure(&worker/1, Leash.Shim.path()) end)

    beside =
      for {name, args} <- [{"tini", ["-s", "--"]}, {"dumb-init", []}],
          path = System.find_executable(name) do
        {"`#{name}`", Alone.run!(fn -> measure(&bare(&1, path, args), path) end)}
      end

    missing = for name <- ["tini", "dumb-init"], !System.find_executable(name), do: name

    peers =
      for {name, _label, %{supervisor: supervisor} = it} <- Peers.columns(), into: %{} do
        if supervisor,
          do: {name, Alone.run!(fn -> measure(it.daemon, supervisor) end)},
          else: {name, "one for all"}
      end

    for {field, label, aims} <- [
          {"Private_Dirty", "private dirty", [{:at_most, 20}, :below_all]},
          {"Pss", "PSS", [{:at_most, 24}, :below_all]},
          {"Rss", "RSS", []}
        ] do
      %Row{
        key: :"memory_#{String.downcase(field)}",
        what: "memory beside an idle worker, #{label}",
        unit: "kB",
        ours: ours[field],
        beside: for({name, sizes} <- beside, do: {name, sizes[field]}),
        note: if(missing != [], do: "#{Enum.join(missing, " and ")} not installed"),
        aims: aims,
        peers:
          for({name, it} <- peers, into: %{}, do: {name, if(is_map(it), do: it[field], else: it)})
      }
    end
  end

  # The median of some of them, side by side, as they share their pages.
  defp measure(daemon, path) do
    Process.flag(:trap_exit, true)
    muster = Muster.open(@many)
    handles = for _ <- 1..@many, do: daemon.(Muster.member(muster))
    Muster.up(muster)
    # A supervisor may still be busy with the start when its program already runs.
    Process.sleep(300)
    rollups = for pid <- running(path), do: rollup(pid)
    if length(rollups) != @many, do: raise("#{length(rollups)} of #{path} in place of #{@many}")
    Enum.each(handles, &finish/1)
    for pid <- running(path), do: System.cmd("kill", ["-TERM", "#{pid}"], stderr_to_stdout: true)
    Muster.gone(muster)
    for field <- ["Rss", "Pss", "Private_Dirty"], into: %{}, do: {field, median(rollups, field)}
  end

  defp median(rollups, field), do: Stats.median(Enum.map(rollups, & &1[field]))

  defp finish(port) when is_port(port), do: :ok
  defp finish(pid) when is_pid(pid), do: GenServer.stop(pid, :normal, :infinity)

  defp worker({program, args}) do
    {:ok, worker} = Leash.Worker.start_link(command: program, args: args)
    worker
  end

  defp bare({program, args}, supervisor, options) do
    Port.open({:spawn_executable, supervisor}, [
      :binary,
      :exit_status,
      args: options ++ [program | args]
    ])
  end

  # Children of the VM's fork server, and of the run's warden, that run this file.
  defp running(path) do
    {:ok, wanted} = file_id(path)

    for server <- children(String.to_integer(System.pid())),
        child <- children(server),
        pid <- [child | if(warden?(child), do: children(child), else: [])],
        file_id("/proc/#{pid}/exe") == {:ok, wanted},
        not warden?(pid),
        do: pid
  end

  defp children(pid) do
    {:ok, children} = Leash.OSProcess.children(pid)
    Enum.map(children, & &1.pid)
  end

  # The run's own, the same program.
  defp warden?(pid) do
    {:ok, line} = File.read("/proc/#{pid}/cmdline")
    "--warden" in String.split(line, <<0>>)
  end

  defp file_id(path) do
    with {:ok, stat} <- File.stat(path), do: {:ok, {stat.major_device, stat.inode}}
  end

  defp rollup(pid) do
    for [_all, field, kb] <-
          Regex.scan(~r/^(\w+): +(\d+) kB$/m, File.read!("/proc/#{pid}/smaps_rollup")),
        into: %{},
        do: {field, String.to_integer(kb)}
  end
end
