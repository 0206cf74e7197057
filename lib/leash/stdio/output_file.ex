defmodule Leash.Stdio.OutputFile do
  # A file of output that this VM writes, rotates and opens anew. It belongs to the process that
  # opens it, the reader of the pipe.
  #
  # A file that cannot be written costs output and a line in the log, and never the pipe.
  @moduledoc false

  require Logger

  alias Leash.Stdio.FileOptions
  alias Leash.Text

  # A file that could not be opened is tried again, and a failure logged again, after so long.
  @again_ms 1_000
  @log_every_ms 10_000

  # A file may exceed its size by so much, so that its last line is whole.
  @slack_bytes 65_536

  @enforce_keys [:path, :max, :keep, :label]
  defstruct [
    :path,
    :max,
    :keep,
    :label,
    :device,
    size: 0,
    # Whether the last byte ended a line.
    line_start?: true,
    again_at: nil,
    logged_at: nil,
    lost: 0
  ]

  @type t :: %__MODULE__{
          path: Path.t(),
          max: pos_integer() | nil,
          keep: non_neg_integer(),
          label: String.t(),
          device: :file.fd() | nil,
          size: non_neg_integer(),
          line_start?: boolean(),
          again_at: integer() | nil,
          logged_at: integer() | nil,
          lost: non_neg_integer()
        }

  @doc "Opens the file to append to it. `label` names stream and worker in the log."
  @spec open(FileOptions.t(), String.t()) :: t()
  def open(%{path: path, size: max, keep: keep}, label),
    do: opened(%__MODULE__{path: path, max: max, keep: keep, label: label})

  @doc "Appends to the file. Begins a new one where it would get too large, at a line's end."
  @spec write(t(), binary()) :: t()
  def write(file, ""), do: file
  def write(%{device: nil} = file, data), do: file |> again() |> write_open(data)
  def write(file, data), do: write_open(file, data)

  @doc "Opens the file of that name anew. If that fails, then the old one stays open."
  @spec reopen(t()) :: {:ok | {:error, :file.posix()}, t()}
  def reopen(file) do
    case device(file.path) do
      {:ok, device, size} ->
        _ = close(file)
        {:ok, %{file | device: device, size: size, line_start?: true}}

      {:error, reason} ->
        {{:error, reason}, file}
    end
  end

  @spec close(t()) :: t()
  def close(file) do
    _ = file.device && :file.close(file.device)
    file = %{file | device: nil}
    if file.lost > 0, do: log_now(file, "was not written to its end"), else: file
  end

  defp opened(file) do
    case device(file.path) do
      {:ok, device, size} ->
        %{file | device: device, size: size, line_start?: true, again_at: nil}

      {:error, reason} ->
        failed(%{file | device: nil, again_at: now() + @again_ms}, "be opened", reason)
    end
  end

  defp device(path) do
    with {:ok, device} <- :file.open(path, [:append, :raw, :binary]) do
      case :file.position(device, :eof) do
        {:ok, size} -> {:ok, device, size}
        # A pipe or a terminal has no size.
        {:error, _espipe} -> {:ok, device, 0}
      end
    end
  end

  defp again(%{again_at: at} = file) do
    if at == nil or now() >= at, do: opened(file), else: file
  end

  defp write_open(%{device: nil} = file, data), do: %{file | lost: file.lost + byte_size(data)}
  defp write_open(%{max: nil} = file, data), do: append(file, data)

  defp write_open(%{size: size, max: max} = file, data) when size + byte_size(data) <= max,
    do: append(file, data)

  defp write_open(file, data) do
    case divide(file, data) do
      :whole -> append(file, data)
      size -> file |> append(binary_part(data, 0, size)) |> rotate() |> write(rest(data, size))
    end
  end

  defp rest(data, size), do: binary_part(data, size, byte_size(data) - size)

  # The bytes that still belong to this file. A line that begins in a file ends in it, unless it
  # is longer than the slack.
  defp divide(%{size: size, max: max} = file, data) do
    case last_end(data, max(0, max - size)) do
      0 when file.line_start? and size > 0 -> 0
      0 -> rest_of_line(data, max(0, max + @slack_bytes - size))
      ended -> ended
    end
  end

  defp rest_of_line(data, slack) do
    case :binary.match(data, "\n") do
      {at, 1} when at < slack -> at + 1
      _beyond when byte_size(data) <= slack -> :whole
      _beyond -> slack
    end
  end

  # The size of the lines that end within so many bytes.
  defp last_end(_data, 0), do: 0

  defp last_end(data, room) do
    case :binary.matches(binary_part(data, 0, min(room, byte_size(data))), "\n") do
      [] -> 0
      ends -> ends |> List.last() |> elem(0) |> Kernel.+(1)
    end
  end

  defp append(file, ""), do: file

  defp append(file, data) do
    case :file.write(file.device, data) do
      :ok ->
        size = file.size + byte_size(data)
        %{file | size: size, line_start?: :binary.last(data) == ?\n}

      {:error, reason} ->
        failed(%{file | lost: file.lost + byte_size(data)}, "be written", reason)
    end
  end

  # If the files cannot be renamed, then this one goes on for another size.
  defp rotate(file) do
    _ = :file.close(file.device)

    case shift(file.path, file.keep) do
      :ok -> opened(%{file | device: nil})
      {:error, reason} -> %{opened(failed(file, "be renamed", reason)) | size: 0}
    end
  end

  defp shift(path, 0), do: deleted(:file.delete(path))

  defp shift(path, keep) do
    with :ok <- deleted(:file.delete("#{path}.#{keep}")),
         :ok <- shift_older(path, keep - 1),
         do: deleted(:file.rename(path, path <> ".1"))
  end

  defp shift_older(_path, 0), do: :ok

  defp shift_older(path, number) do
    with :ok <- deleted(:file.rename("#{path}.#{number}", "#{path}.#{number + 1}")),
         do: shift_older(path, number - 1)
  end

  # Another process may have moved a file, and there are not yet so many older ones.
  defp deleted({:error, :enoent}), do: :ok
  defp deleted(result), do: result

  defp failed(file, what, reason),
    do: log(file, "cannot #{what}: #{:file.format_error(reason)} (#{reason})")

  defp log(%{logged_at: at} = file, text) do
    if at == nil or now() - at >= @log_every_ms, do: log_now(file, text), else: file
  end

  defp log_now(file, text) do
    lost = if file.lost > 0, do: "; #{file.lost} bytes are lost", else: ""
    Logger.error("#{file.label}: #{Text.printable(file.path)} #{text}#{lost}")
    %{file | logged_at: now(), lost: 0}
  end

  defp now, do: System.monotonic_time(:millisecond)
end
