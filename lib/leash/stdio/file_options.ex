defmodule Leash.Stdio.FileOptions do
  # `{:file, path, options}` as `:stdout` or `:stderr` of a Worker: a file that this VM writes, so
  # that it can be rotated and opened anew. The program opens `{:file, path}` itself.
  @moduledoc false

  alias Leash.Guard
  alias Leash.{OptionsError, Schema}

  @schema Schema.new(
            rotate: [
              type:
                {:or,
                 [
                   nil,
                   keyword_list: [
                     size: [
                       type: {:custom, __MODULE__, :size, []},
                       type_doc: "bytes > 0, or text such as \"10MB\"",
                       type_spec: quote(do: pos_integer() | String.t()),
                       required: true,
                       doc: "The size at which a new file begins."
                     ],
                     keep: [
                       type: {:in, 0..1_000},
                       default: 5,
                       doc: "The number of older files, `path.1` being the latest."
                     ]
                   ]
                 ]},
              type_doc: "a keyword list of :size and :keep",
              doc: "Begins a new file at a size."
            ],
            reopen: [
              type: :boolean,
              default: false,
              doc: "`true` is for `Leash.Worker.reopen/1` without `:rotate`."
            ]
          )

  @typedoc "The file of an output. Without `size` only `reopen/1` begins a new one."
  @type t :: %{path: Path.t(), size: pos_integer() | nil, keep: non_neg_integer()}

  @doc "The options as documentation."
  @spec docs() :: String.t()
  def docs, do: Schema.docs(@schema)

  @spec typespec() :: Macro.t()
  def typespec do
    quote do: {:file, Path.t(), [unquote(Schema.typespec(@schema))]}
  end

  @doc false
  @spec check(term()) :: {:ok, tuple()} | {:error, String.t() | OptionsError.t()}
  def check({:file, path, given}) do
    with {:ok, path} <- text(path),
         {:ok, options} <- Schema.validate(@schema, given) do
      case options do
        %{rotate: nil, reopen: false} -> {:ok, {:file, path}}
        %{rotate: rotate} -> {:ok, {:file, path, rotate || []}}
      end
    end
  end

  def check(_other), do: {:error, "{:file, path, options}"}

  defp text(path) do
    if Schema.text?(path),
      do: {:ok, path},
      else: Schema.error(:file, "a string without NUL bytes", path)
  end

  @doc false
  @spec size(term()) :: {:ok, pos_integer()} | {:error, String.t()}
  def size(size) do
    case Guard.Options.bytes(size) do
      {:ok, bytes} when bytes > 0 -> {:ok, bytes}
      _none -> {:error, "bytes > 0, or text such as \"10MB\""}
    end
  end

  @doc """
  Takes the files that this VM writes out of checked options, to `:files`.

  The streams then have pipes. The files can be opened, and belong to one stream each.
  """
  @spec take(map()) :: {:ok, map()} | {:error, OptionsError.t()}
  def take(options) do
    files =
      for stream <- [:stdout, :stderr],
          {:file, path, rotate} <- [Map.fetch!(options, stream)],
          into: %{} do
        path = if options.cd, do: Path.expand(path, options.cd), else: Path.expand(path)
        {stream, %{path: path, size: rotate[:size], keep: rotate[:keep] || 0}}
      end

    with :ok <- no_detach(files, options),
         :ok <- apart(files, options),
         :ok <- openable(Map.to_list(files)) do
      pipes = Map.new(files, fn {stream, _file} -> {stream, :output} end)
      {:ok, options |> Map.merge(pipes) |> Map.put(:files, files)}
    end
  end

  defp no_detach(files, %{on_exit: :detach} = options) do
    [stream | _] = Map.keys(files)

    Schema.error(
      stream,
      "{:file, path} or :null beside on_exit: :detach (this VM would write the file)",
      Map.fetch!(options, stream)
    )
  end

  defp no_detach(_files, _options), do: :ok

  # Two writers would rename each other's file.
  defp apart(%{stdout: %{path: path}, stderr: %{path: path}}, options),
    do: Schema.error(:stderr, ":stdout, to share one file with stdout", options.stderr)

  defp apart(_files, _options), do: :ok

  defp openable([]), do: :ok

  defp openable([{stream, %{path: path}} | files]) do
    # A pipe without a reader would hold up the call.
    with {_, false} <- {:special, special?(path)},
         {:ok, file} <- :file.open(path, [:append, :raw]) do
      :ok = :file.close(file)
      openable(files)
    else
      {:special, true} ->
        Schema.error(stream, "a regular file, since this VM writes it", {:file, path})

      {:error, reason} ->
        Schema.error(stream, "a file that can be appended to (#{reason})", {:file, path})
    end
  end

  defp special?(path), do: match?({:ok, %{type: type}} when type != :regular, File.stat(path))
end
