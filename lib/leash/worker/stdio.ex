defmodule Leash.Worker.Stdio do
  # Hands the VM's ends of a worker's pipes to the processes that read and write them.
  @moduledoc false

  alias Leash.{Callback, Native}
  alias Leash.Stdio.{Collector, Reader, Writer}
  alias Leash.Worker.Server

  @type ends :: %{
          stdin: Native.fd() | nil,
          stdout: Native.fd() | nil,
          stderr: Native.fd() | nil
        }
  @type outputs :: %{optional(pid()) => :stdout | :stderr}

  @doc "Hands the ends to processes that are linked to the caller."
  @spec open(Server.t(), ends()) :: Server.t()
  def open(%{options: %{stdin: :pty}} = server, ends),
    do: open(%{server | terminal: ends.stdin}, ends, true)

  def open(server, ends), do: open(server, ends, false)

  defp open(server, ends, terminal?) do
    %{
      server
      | input: start_input(ends.stdin, terminal?),
        outputs: start_outputs(server, ends)
    }
  end

  defp start_input(nil, _terminal?), do: nil

  defp start_input(fd, terminal?) do
    {:ok, pid} = Writer.start_link(fd, terminal?)
    pid
  end

  @doc "Returns the reason why nothing can be written."
  @spec no_input(map()) :: :epipe | :not_piped
  def no_input(%{stdin: stdin}) when stdin in [:pipe, :pty], do: :epipe
  def no_input(_options), do: :not_piped

  defp start_outputs(_server, %{stdout: nil, stderr: nil}), do: %{}

  defp start_outputs(server, ends) do
    options = %{
      label: server.label,
      name: server.options.name,
      group: server.options.group,
      callers: Callback.callers(),
      ready: if(is_struct(server.options.ready, Regex), do: server.options.ready),
      window: server.options.output_window,
      lines: server.options.lines,
      terminal?: server.terminal != nil,
      limited?: server.machine.ready?,
      traffic: server.traffic
    }

    streams =
      for stream <- [:stdout, :stderr],
          fd = ends[stream],
          do: {stream, fd, handler(server.options, stream)}

    collectors = start_collectors(streams, options)

    for {stream, fd, receiver} <- streams, into: %{} do
      receiver = Map.update!(receiver, :handler, &collector(&1, collectors[receiver.option]))
      {:ok, pid} = Reader.start_link(fd, stream, Map.merge(options, receiver))
      {pid, stream}
    end
  end

  # Streams with one option have one Collectable.
  defp start_collectors(streams, options) do
    counts =
      Enum.frequencies(for {_, _, %{handler: {:into, _}} = receiver} <- streams, do: receiver)

    for {%{option: option, handler: {:into, collectable}}, count} <- counts, into: %{} do
      {:ok, pid} = Collector.start(collectable, option, options.label, options.callers, count)
      {option, pid}
    end
  end

  defp collector({:into, _collectable}, pid), do: {:collector, pid}
  defp collector(handler, nil), do: handler

  defp handler(%{files: files}, stream) when is_map_key(files, stream),
    do: %{option: stream, handler: {:file, Map.fetch!(files, stream)}}

  defp handler(%{on_stderr: handler}, :stderr) when handler != nil,
    do: %{option: :on_stderr, handler: handler}

  defp handler(%{on_output: handler}, _stream), do: %{option: :on_output, handler: handler}

  @doc "Begins to read, because the program runs under this pid."
  @spec begin(outputs(), pos_integer()) :: :ok
  def begin(outputs, os_pid), do: Enum.each(Map.keys(outputs), &Reader.begin(&1, os_pid))

  @doc "Gives the terminal another size. The error is `:no_pty` if there is none."
  @spec resize(Server.t(), 1..65_535, 1..65_535) :: :ok | {:error, :no_pty | :epipe}
  def resize(%{terminal: nil}, _rows, _cols), do: {:error, :no_pty}

  def resize(%{terminal: fd}, rows, cols) do
    with {:error, _closed} <- Native.terminal_resize(fd, rows, cols), do: {:error, :epipe}
  end

  @doc "Adds what `Leash.Worker.info/1` reports only of a worker with a terminal."
  @spec info(map(), Native.fd() | nil) :: map()
  def info(info, nil), do: info

  def info(info, fd) do
    case Native.terminal_info(fd) do
      {:ok, {device, rows, cols}} ->
        Map.put(info, :pty, %{device: device, rows: rows, cols: cols})

      {:error, _closed} ->
        info
    end
  end

  @doc """
  Opens the files of this VM anew, and replies to the caller.

  Another process waits for the readers: a file system that hangs must not hold up the Worker.
  """
  @spec reopen(outputs(), map(), GenServer.from()) :: :ok
  def reopen(outputs, %{files: files}, from) do
    readers = for {pid, stream} <- outputs, is_map_key(files, stream), do: pid
    _pid = spawn(fn -> GenServer.reply(from, reopened(readers)) end)
    :ok
  end

  def reopen(_outputs, _options, from), do: GenServer.reply(from, {:error, :not_reopenable})

  # At the end of the output there is nothing to open.
  defp reopened(readers) do
    readers |> Enum.map(&Reader.reopen/1) |> Enum.find(:ok, &(&1 != :ok))
  end

  @doc "Makes output that no process takes hold the program back, because the worker is ready."
  @spec limit(outputs()) :: :ok
  def limit(outputs), do: Enum.each(Map.keys(outputs), &Reader.limit/1)

  @doc "Reads what the pipes of an ended tree still hold, without waiting for more."
  @spec finish(outputs()) :: :ok
  def finish(outputs), do: Enum.each(Map.keys(outputs), &Reader.finish/1)

  @doc "Logs the handlers that have not taken everything in time. They go on alone."
  @spec leave(outputs(), map(), String.t()) :: :ok
  def leave(outputs, options, label) do
    _logged =
      for stream <- Map.values(outputs),
          %{option: option, handler: handler} = handler(options, stream),
          function = callable(handler),
          do: option |> Callback.new(label, function) |> Callback.log(:busy)

    :ok
  end

  defp callable(function) when is_function(function), do: function
  defp callable({:into, collectable}), do: Collector.callable(collectable)
  defp callable(_log_pid_or_file), do: nil
end
