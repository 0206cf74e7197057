defmodule Mix.Tasks.Compile.LeashNative.Prebuilt do
  # Files that another machine built: takes them from a directory, an archive or a URL, checks
  # them, and keeps them below the build directory. So the next command, also of another
  # environment, needs neither the variable nor the place.
  @moduledoc false

  alias Mix.Tasks.Compile.LeashNative.{Download, Elf}

  # Loaded below, where they are needed.
  @compile {:no_warn_undefined, [Download, Elf, :crypto]}

  @needed ["leash_nif.so", "leash-shim"]
  @command "leash"
  @names @needed ++ [@command]
  # Written last and removed first: without it, nothing is kept.
  @origin "origin"

  @typedoc "Where the files are: a path, or a template of a URL and the path of the checksums."
  @type source :: {:path, Path.t()} | {:url, String.t(), Path.t()} | :kept

  @typedoc "What the files must be: version, protocol, Rust's name of the target."
  @type expected :: %{version: String.t(), protocol: String.t(), target: String.t()}

  @doc "Returns whether `dir` holds files from before."
  @spec kept?(Path.t()) :: boolean()
  def kept?(dir), do: match?({:ok, _origin}, read_origin(dir))

  @doc "Removes what is kept in `dir`."
  @spec forget(Path.t()) :: :ok
  def forget(dir) do
    Enum.each([@origin | @names], &File.rm(Path.join(dir, &1)))
    File.rmdir(dir)
    :ok
  end

  @doc "Takes the files from `source` into `dir`, and returns their paths by name."
  @spec take(source(), Path.t(), expected()) :: [{String.t(), Path.t()}]
  def take(source, dir, expected) do
    {place, origin, read} = open(source, dir, expected)

    unless source == :kept or read_origin(dir) == {:ok, origin} do
      files = read.()
      check!(files, place, expected)
      keep(files, dir, origin)
      say_taken(source, files, place)
    end

    kept = for name <- @names, path = Path.join(dir, name), File.regular?(path), do: {name, path}
    # Another version of Leash, or another target, since they were taken.
    check!(for({name, path} <- kept, do: {name, File.read!(path)}), place, expected)
    kept
  end

  # What the sentences call the place, what tells one state of it from another, and a function
  # that reads the files.
  defp open(:kept, dir, _expected) do
    with {:ok, {place, _state}} <- read_origin(dir), do: {place, nil, nil}
  end

  defp open({:path, path}, _dir, expected) do
    place = "LEASH_PREBUILT is #{path}"

    case File.stat(path) do
      {:ok, %{type: :directory}} ->
        archive = Path.join(path, archive(expected))

        if not has_files?(path) and File.regular?(archive),
          do: open({:path, archive}, nil, expected),
          else: of_directory(path, place)

      {:ok, _file} ->
        contents = read!(path, place)
        {place, {place, :erlang.md5(contents)}, fn -> unpack(contents, place) end}

      {:error, reason} ->
        Mix.raise(
          "#{place}, which cannot be read (#{:file.format_error(reason)}): set it to a " <>
            "directory or an archive that is there, or to nothing to build with cargo."
        )
    end
  end

  defp open({:url, template, sums}, _dir, expected) do
    url = url(template, expected)
    name = archive(expected)
    sum = sum!(sums, name, url)
    place = "#{url} is an archive"

    read = fn ->
      Code.require_file("download.exs", __DIR__)
      Mix.shell().info("Downloading #{url}")
      contents = download!(url, name)
      compare!(sha256(contents, url), sum, url, sums)
      unpack(contents, place)
    end

    {place, {place, sum}, read}
  end

  @doc "Returns the name of the archive that `script/release` makes."
  @spec archive(expected()) :: String.t()
  def archive(%{version: version, target: target}), do: "leash-#{version}-#{target}.tar.gz"

  defp has_files?(dir), do: Enum.any?(@needed, &File.regular?(Path.join(dir, &1)))

  defp of_directory(dir, place) do
    for name <- @needed, not File.regular?(Path.join(dir, name)) do
      Mix.raise(
        "#{place}, which has no file #{name}: put leash_nif.so and leash-shim there, or unset " <>
          "LEASH_PREBUILT to build them with cargo."
      )
    end

    paths = for name <- @names, path = Path.join(dir, name), File.regular?(path), do: {name, path}
    files = for {name, path} <- paths, do: {name, read!(path, place)}
    {place, {place, :erlang.md5(Enum.map(files, &elem(&1, 1)))}, fn -> files end}
  end

  defp read!(path, place) do
    case File.read(path) do
      {:ok, contents} ->
        contents

      {:error, reason} ->
        Mix.raise("#{place}, and #{path} cannot be read: #{:file.format_error(reason)}.")
    end
  end

  # Into memory, and by name: what else an archive holds is written nowhere.
  defp unpack(contents, place) do
    case :erl_tar.extract({:binary, contents}, [:memory, :compressed]) do
      {:ok, entries} ->
        files =
          for {path, contents} <- entries, name = Path.basename(path), name in @names do
            {name, contents}
          end

        for name <- @needed, not List.keymember?(files, name, 0) do
          Mix.raise("#{place}, which has no file #{name}: take one that script/release made.")
        end

        files

      {:error, _reason} ->
        Mix.raise("#{place}, which is no whole .tar.gz: copy or download it again.")
    end
  end

  defp url(template, expected) do
    url =
      template
      |> String.replace("{version}", expected.version)
      |> String.replace("{target}", expected.target)
      |> String.replace("{archive}", archive(expected))

    unless url =~ ~r{\A(https?|file)://} do
      Mix.raise(
        "The URL of precompiled files is #{inspect(url)}: expected one that begins with " <>
          "https://, http:// or file://."
      )
    end

    url
  end

  defp sum!(path, name, url) do
    with {:ok, text} <- File.read(path),
         [_all, sum] <- Regex.run(~r/^([0-9a-fA-F]{64}) [ *]#{Regex.escape(name)}$/m, text) do
      String.downcase(sum)
    else
      {:error, reason} ->
        Mix.raise(
          "#{url} has nothing to be checked against (#{path}: #{:file.format_error(reason)}): " <>
            "put the SHA256SUMS of script/release there, or name it with " <>
            "`config :leash, precompiled_sums: PATH`."
        )

      nil ->
        Mix.raise("#{url} has nothing to be checked against: #{path} has no line for #{name}.")
    end
  end

  defp download!("file://" <> path, name), do: local!(path, name)

  defp download!(url, name) do
    case Download.get(url) do
      {:ok, contents} -> contents
      {:error, reason} -> Mix.raise("#{url} cannot be downloaded: #{reason}; #{instead(name)}")
    end
  end

  defp local!(path, name) do
    case File.read(path) do
      {:ok, contents} ->
        contents

      {:error, reason} ->
        Mix.raise("#{path} cannot be read: #{:file.format_error(reason)}; #{instead(name)}")
    end
  end

  defp instead(name) do
    "set LEASH_PREBUILT to a copy of #{name}, or to nothing to build with cargo."
  end

  defp sha256(contents, url) do
    case Download.start([:crypto]) do
      :ok -> Base.encode16(:crypto.hash(:sha256, contents), case: :lower)
      {:error, reason} -> Mix.raise("#{url} cannot be checked: #{reason}.")
    end
  end

  defp compare!(sum, sum, _url, _sums), do: :ok

  defp compare!(found, sum, url, sums) do
    Mix.raise(
      "#{url} has the SHA-256 #{found}, and #{sums} says #{sum}: nothing of it was used, and " <>
        "it is cut off or not the file that was released."
    )
  end

  defp check!(files, place, expected) do
    Code.require_file("elf.exs", __DIR__)

    for {name, contents} <- files,
        problem =
          machine_problem(Elf.machine(contents), expected) ||
            mark_problem(name, contents, expected) do
      Mix.raise(
        "#{place}, whose #{name} #{problem}: take #{archive(expected)}, or set LEASH_PREBUILT " <>
          "to nothing to build with cargo."
      )
    end
  end

  defp machine_problem({:error, problem}, _expected), do: problem

  defp machine_problem({:ok, machine}, %{target: target}) do
    unless String.starts_with?(target, machine <> "-"),
      do: "is for #{machine} and this build is for #{target}"
  end

  defp mark_problem(name, contents, expected) do
    %{version: version, protocol: protocol, target: target} = expected

    case Elf.build_mark(contents, mark_name(name)) do
      {^version, ^protocol} -> libc_problem(name, contents, target)
      {^version, other} -> "has protocol #{other} and this Leash has protocol #{protocol}"
      {other, _protocol} -> "is of Leash #{other} and this is Leash #{version}"
      nil -> "does not say of which Leash it is"
    end
  end

  defp mark_name("leash_nif.so"), do: "leash-nif"
  defp mark_name(name), do: name

  # The shim has no C library, and the command may be linked statically.
  defp libc_problem("leash_nif.so", contents, target) do
    libc = Elf.libc(contents)

    unless String.ends_with?(target, "#{libc}"),
      do: "is linked against #{libc} and this build is for #{target}"
  end

  defp libc_problem(_name, _contents, _target), do: nil

  defp read_origin(dir) do
    with {:ok, contents} <- File.read(Path.join(dir, @origin)) do
      {:ok, :erlang.binary_to_term(contents)}
    end
  rescue
    ArgumentError -> :error
  end

  defp keep(files, dir, origin) do
    File.rm(Path.join(dir, @origin))
    for name <- @names, not List.keymember?(files, name, 0), do: File.rm(Path.join(dir, name))
    install = &Mix.Tasks.Compile.LeashNative.install(&1, Path.join(dir, &2))
    for {name, contents} <- files, do: install.(contents, name)
    install.(:erlang.term_to_binary(origin), @origin)
  end

  defp say_taken(source, files, place) do
    unless List.keymember?(files, @command, 0) do
      Mix.shell().info(
        "#{place}, which has no file #{@command}: Leash works without that command, and " <>
          "Leash.Operator and mix leash.* do not."
      )
    end

    if match?({:path, _path}, source) do
      Mix.shell().info("#{place}: checked and kept, so the next commands need no LEASH_PREBUILT.")
    end
  end
end
