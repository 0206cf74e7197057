defmodule Leash.OpenPort do
  # `Leash.open_port/3` opens a real port whose program is a shim, with the program's own stdin
  # and stdout.
  #
  # The caller opens the port, so that it is the owner from the first moment and no message takes
  # a detour. The shim's leash is the port's pipe itself, which hangs up when the port closes. A
  # port whose queue is not empty keeps its pipe. So a PortWatcher watches each port and notifies
  # its shim.
  @moduledoc false

  alias Leash.{Cgroup, Degraded, Registry, Run, Shim}
  alias Leash.OpenPort.{Options, PortWatcher}

  @spec open(String.t(), [binary()], list()) :: port()
  def open(command, args, options) do
    options = Options.validate!(command, args, options)
    if Run.degraded?(), do: Degraded.open_port(options), else: open_run(options)
  end

  defp open_run(options) do
    run = Run.current!()

    case PortWatcher.start(run, options) do
      {:ok, keeper, number} ->
        :ok = Run.note_mark(run, number, options)
        options = grouped(keeper, run, number, options)
        port = open(keeper, run, number, Run.with_flag(run, number, options))
        PortWatcher.watch(keeper, number, port, os_pid(port))
        port

      {:error, reason} ->
        raise Leash.Error, reason: reason
    end
  end

  defp open(keeper, run, number, options) do
    {args, env} = Shim.for_port(run, number, options)
    program = {:spawn_executable, absolute(Shim.path())}
    Port.open(program, [{:args, args}, {:env, env} | options.port])
  rescue
    error ->
      refused(keeper, run, number, options)
      reraise Options.refused(error, options), __STACKTRACE__
  end

  defp grouped(_keeper, _run, _number, %{cgroup: nil} = options), do: options

  defp grouped(keeper, run, number, options) do
    case Cgroup.make(run, number, options) do
      {:ok, options} ->
        options

      {:error, reason} ->
        refused(keeper, run, number, options)
        raise Leash.Error, reason: reason
    end
  end

  # The system refused, so no process ever had the number.
  defp refused(keeper, run, number, options) do
    if options.cgroup, do: Cgroup.clear(run, number, :ends)
    Registry.delete(number)
    _ = Run.forget([number])
    PortWatcher.dismiss(keeper)
  end

  # The VM enters the directory of :cd before it executes the shim.
  defp absolute("/" <> _ = path), do: path
  defp absolute(path), do: Path.expand(path)

  # A closed port has no pid any more. Then the PortWatcher looks for the tag.
  defp os_pid(port), do: with({:os_pid, pid} <- Port.info(port, :os_pid), do: pid)
end
